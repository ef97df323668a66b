"""A Mamba-2 world model of Super Smash Bros. Melee: from frames and controller inputs it predicts the next frame."""

__version__ = "0.1.0"
