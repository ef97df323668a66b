"""What a machine costs: the user's own figure, else a price file that says where each of its numbers comes from.

A price that nobody gave is unknown, never guessed: the message says what to set.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from worldmodel.errors import UserError, nearest

FILE, HOUR, PROVIDER = "WORLDMODEL_PRICES", "WORLDMODEL_PRICE_PER_HOUR", "WORLDMODEL_PROVIDER"
"""Environment variables: another price file; dollars per hour of one GPU, or of the whole machine where there is none;
whose prices count."""
CLOUDS = {"aws": "AWS", "gcp": "Google Cloud", "azure": "Azure"}
"""Providers that stand first, and what people call them."""
SHIPPED = Path(__file__).parents[2] / "infra" / "prices.yaml"
"""The price file of a checkout, or of a job's working folder."""


def rank_provider(name: str) -> int:
    """Where a provider stands in a list."""
    return [*CLOUDS, name].index(name)


def _check_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return text


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(_Strict):
    """A number, and where it comes from."""

    value: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    date: Annotated[str, Field(min_length=1)]
    """When it was so; "undated" where the source does not say."""
    source: Annotated[str, Field(min_length=1)]


class Machine(Figure):
    """Dollars per hour of a whole machine, on demand."""

    gpu: str | None = None
    """Kind of its GPUs."""
    gpus: Annotated[int, Field(ge=1)] = 1


class GpuKind(_Strict):
    """A kind of GPU."""

    pattern: Annotated[str, AfterValidator(_check_pattern)]
    """Regular expression that finds the kind in a GPU's name as torch reports it."""
    bf16_tflops: Figure | None = None
    """Peak of dense matrix products in bfloat16, 10^12 operations per second; None: unknown."""
    fp32_tflops: Figure | None = None
    """Peak in float32 without tensor cores (torch's default), 10^12 operations per second; None: unknown."""
    memory_tb_s: Figure | None = None
    """Memory bandwidth, 10^12 bytes per second; None: unknown."""


class Provider(_Strict):
    """What one provider asks; whatever is absent is unknown."""

    gpu_hour: dict[str, Figure] = {}
    """Kind of GPU to dollars per hour of one."""
    machine_hour: dict[str, Machine] = {}
    storage_gb_month: Figure | None = None
    """Dollars per GB (10^9 bytes) stored for a month."""
    egress_gb: Figure | None = None
    """Dollars per GB (10^9 bytes) fetched from there."""

    def find_offer(self, kind: str) -> Figure | None:
        """Dollars per hour of one GPU of that kind, alone or as its part of a whole machine; None: unknown."""
        for name, machine in self.machine_hour.items() if kind not in self.gpu_hour else ():
            if machine.gpu == kind:
                source = f"{name}, {machine.gpus} GPUs at {machine.value:g} an hour: {machine.source}"
                return Figure(value=machine.value / machine.gpus, date=machine.date, source=source)
        return self.gpu_hour.get(kind)


class Prices(_Strict):
    """A price file."""

    gpus: dict[str, GpuKind] = {}
    """Name of a kind to what is known of it; the first whose pattern fits names a GPU."""
    providers: dict[str, Provider] = {}

    def find_kind(self, name: str) -> str | None:
        """The kind of a GPU of that name; None: none that the file knows."""
        return next((kind for kind, gpu in self.gpus.items() if re.search(gpu.pattern, name)), None)

    def list_offers(self, kind: str) -> dict[str, Figure]:
        """Provider to dollars per hour of one GPU of that kind, in the order of `rank_provider`."""
        found = ((name, self.providers[name].find_offer(kind)) for name in sorted(self.providers, key=rank_provider))
        return {name: offer for name, offer in found if offer}


@dataclass(frozen=True, kw_only=True)
class Price:
    """What an hour costs."""

    usd_per_hour: float | None
    """Dollars per hour of one GPU, or of the whole machine where there is none; None: unknown."""
    origin: str
    """Where it comes from; of an unknown price, why, and what to set."""


def read_prices() -> Prices | None:
    """The prices of the file that `WORLDMODEL_PRICES` names, else of the shipped one; None where there is no file.

    Raises:
        UserError: the file named is absent, or a file cannot be understood; one message with all that is wrong.
    """
    named = os.environ.get(FILE)
    path = Path(named) if named else SHIPPED
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if not named and isinstance(error, FileNotFoundError):
            return None
        raise UserError(f"price file {path} cannot be read: {error} (it is named by {FILE})") from None
    return parse_prices(text, str(path))


def parse_prices(text: str, source: str) -> Prices:
    """The prices of a YAML text; `source` is what errors call it. UserError as `read_prices`."""
    try:
        prices = Prices.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UserError(f"price file {source} is not valid YAML: {error}") from None
    except ValidationError as error:
        lines = [_explain(dict(problem)) for problem in error.errors(include_url=False)]
        raise UserError("\n  ".join([f"price file {source} cannot be understood:", *lines])) from None
    for name, provider in prices.providers.items():
        machines = [("machine_hour", machine.gpu) for machine in provider.machine_hour.values() if machine.gpu]
        for key, kind in [*(("gpu_hour", kind) for kind in provider.gpu_hour), *machines]:
            if kind not in prices.gpus:
                hint = nearest(kind, prices.gpus)
                raise UserError(f"price file {source}: providers.{name}.{key}: {kind!r} is not among gpus{hint}")
    return prices


def _explain(problem: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{place or 'the file'}: {problem['msg']}, found {problem['input']!r}"
    known = {name for model in (Figure, GpuKind, Provider, Prices) for name in model.model_fields}
    return f"{place}: unknown key{nearest(str(problem['loc'][-1]), known)}"


def find_price(device: Mapping[str, Any], prices: Prices | None) -> Price:
    """What the machine at hand costs.

    Args:
        device: what `worldmodel.machine.device.describe_device` says of it.
        prices: a price file's content; None: there is no file.

    Raises:
        UserError: `WORLDMODEL_PRICE_PER_HOUR` is no price, or `WORLDMODEL_PROVIDER` nobody in the price file.
    """
    own = _read_own_price()
    if own is not None:
        return Price(usd_per_hour=own, origin=f"as {HOUR} says")
    if prices is None:
        return _unknown(f"there is no price file ({FILE} would name one)")
    name = device.get("gpu")
    if not name and device.get("type") == "cuda":
        return _unknown("which GPU the workers have is not known before they start")
    if not name:
        return _unknown("the price file knows GPUs, and here is none")
    kind = prices.find_kind(str(name))
    if kind is None:
        return _unknown(f"the price file knows no GPU {str(name)!r}")
    return _choose(kind, prices)


def _read_own_price() -> float | None:
    text = os.environ.get(HOUR, "").strip()
    if not text:
        return None
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not (math.isfinite(price) and price >= 0):
        raise UserError(f"{HOUR}={text}: expected dollars per hour, a number of 0 or more")
    return price


def _choose(kind: str, prices: Prices) -> Price:
    offers = prices.list_offers(kind)
    wished = os.environ.get(PROVIDER, "").strip()
    if wished and wished not in prices.providers:
        known = ", ".join(prices.providers) or "none"
        hint = nearest(wished, prices.providers)
        raise UserError(f"{PROVIDER}={wished}: the price file has no such provider{hint}; it has {known}")
    if wished and wished not in offers:
        return _unknown(f"the price file has no {kind} of {wished}")
    if not offers:
        return _unknown(f"the price file has no price of {kind}")
    if len(offers) > 1 and not wished:
        several = ", ".join(f"{name} ${offer.value:g}" for name, offer in offers.items())
        return Price(
            usd_per_hour=None,
            origin=f"several providers have {kind} ({several}); set {PROVIDER} to yours, or {HOUR} to dollars per hour",
        )
    provider = wished or next(iter(offers))
    offer = offers[provider]
    return Price(usd_per_hour=offer.value, origin=f"{kind} of {provider}, {offer.date}: {offer.source}")


def _unknown(why: str) -> Price:
    return Price(usd_per_hour=None, origin=f"{why}; set {HOUR} to dollars per hour")


def price_workers(device: Mapping[str, Any], share: float, workers: int) -> dict[str, Any]:
    """The price of a run and where it comes from, as fields of `RunRecord`. UserError where no price can be read."""
    price, held = find_price(device, read_prices()), count_held(device, share, workers)
    is_known = price.usd_per_hour is not None
    return {
        "price_per_hour_usd": None if price.usd_per_hour is None else price.usd_per_hour * held,
        "price_origin": price.origin + (f"; {held:g} of it" if held != 1 and is_known else ""),
    }


def count_held(device: Mapping[str, Any], share: float, workers: int) -> float:
    """How many GPUs a run holds whose workers take `share` of one each; without GPUs, which part of a machine: its
    workers are taken to share one."""
    held = share * workers
    return held if device.get("gpu") else min(1.0, held)
