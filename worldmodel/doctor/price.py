"""Whether it is known what the machines cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from worldmodel.doctor.check import Check, passed, warned
from worldmodel.run.prices import find_price, read_prices


def check_price(gpus: Sequence[str]) -> Iterator[Check]:
    """What an hour costs, of each kind of GPU there is; without GPUs, of this machine. UserError as `find_price`."""
    prices = read_prices()
    for name in dict.fromkeys(gpus) or [""]:
        price = find_price({"gpu": name} if name else {}, prices)
        what = name or "this machine"
        if price.usd_per_hour is None:
            yield warned("price", f"{what}: unknown, so no cost is shown and no budget in dollars works", price.origin)
        else:
            yield passed("price", f"{what}: ${price.usd_per_hour:g} an hour ({price.origin})")
