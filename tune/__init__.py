"""What runs many trainings: Round 1's grid, its results and its report."""
