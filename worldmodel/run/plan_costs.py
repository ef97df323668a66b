"""Steps, hours and dollars of an experiment, or of a grid of them, before anything is spent."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.machine.device import pick_device
from worldmodel.run.budget import Budget
from worldmodel.run.estimate import Work, estimate_left
from worldmodel.run.extent import Extent, measure_extent
from worldmodel.run.forecast import Forecast, PastPace, find_paces
from worldmodel.run.prices import Figure, Prices, find_price, rank_provider, read_prices
from worldmodel.run.probe import Probe, run_probe
from worldmodel.run.step_work import StepWork, count_step
from worldmodel.storage import Location
from worldmodel.training.data import require_source
from worldmodel.training.validation import check_metric

CHECKPOINT_BYTES = 12
"""Bytes of a checkpoint for each parameter: the weight and AdamW's two means, in float32."""
GIGA = 1e9

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """An experiment to plan."""

    config: ExperimentConfig
    trials: int = 1
    """Runs like this one, for the grid's columns."""
    budget: Budget = field(default_factory=Budget)
    """The plan says how many runs its dollars pay for."""
    probe_seconds: float
    """Seconds of training that are measured."""


@dataclass(frozen=True, kw_only=True)
class ComputeRow:
    """Hours and dollars of a run on one kind of machine of one provider."""

    device: str
    provider: str
    """Empty: no price is known."""
    hours: float | None
    """Hours of a run on one such GPU, or on this machine; None: unknown."""
    basis: str
    """Origin of the hours, or the reason why they are unknown."""
    usd_per_hour: float | None
    """None: unknown."""
    price_date: str
    """Date of the price."""
    usd: float | None
    """Dollars of a run; None: unknown."""
    grid_hours: float | None
    """Hours of all trials, one after another."""
    grid_usd: float | None
    affordable_trials: float | None
    """Runs that the budget pays for; None: no budget, or an unknown price."""


@dataclass(frozen=True, kw_only=True)
class KeepingRow:
    """Dollars to keep blocks and checkpoints, and to fetch a checkpoint of each run."""

    provider: str
    storage_usd_month: float | None
    """Dollars per month for the blocks and all trials' checkpoints; None: unknown."""
    egress_usd: float | None
    """Dollars for one checkpoint of every trial; None: unknown."""


@dataclass(frozen=True, kw_only=True)
class CostPlan:
    """The plan of an experiment."""

    name: str
    trials: int
    is_exact: bool
    """True if frames and steps were counted; else they are estimated from a sample of the games."""
    games: int
    frames: int
    work: Work
    probe: Probe
    step: StepWork
    """Counted, not measured."""
    compute: list[ComputeRow]
    price_note: str
    """Origin of this machine's price, or why it is unknown and what to set."""
    block_bytes: int
    checkpoint_bytes: int
    """Of one checkpoint."""
    checkpoints: int
    """Checkpoints that a run keeps."""
    keeping: list[KeepingRow]
    assumptions: list[str]
    """Basis of the figures."""


def plan_costs(request: PlanRequest, report: Report = print) -> CostPlan:
    """Count the work, train for a few seconds, and work out what a run and a grid take. No file stays.

    Raises:
        UserError: the experiment cannot be trained on these data here, a price file cannot be understood, or dollars
            are given and no price is known.
    """
    config = request.config
    if request.trials < 1:
        raise UserError(f"--trials {request.trials}: expected at least 1")
    check_metric(config)
    pick_device(config.training.device)
    prices = read_prices()
    source = Location.of(require_source(config))
    with tempfile.TemporaryDirectory(prefix="worldmodel-plan-") as scratch:
        extent = measure_extent(source, config, Path(scratch))
        report(f"{extent.games:,} games counted; training for {request.probe_seconds:.0f} s to measure a step")
        probe = run_probe(extent.dataset, config, request.probe_seconds)
    return make_plan(request, extent, probe, prices, find_paces(Location.of(config.save_dir), config, prices))


def make_plan(
    request: PlanRequest, extent: Extent, probe: Probe, prices: Prices | None, paces: Mapping[str, PastPace] = {}
) -> CostPlan:
    """The plan from what was counted and measured; `paces`: see `find_paces`. UserError as `plan_costs`."""
    price, step = find_price(probe.device, prices), count_step(request.config)
    forecast = Forecast(
        amp=request.config.training.amp,
        work=step,
        probe=probe,
        prices=prices,
        is_captured=_is_captured(request.config),
        paces=paces,
    )
    rows = _list_compute(request, extent.work, probe, prices, forecast)
    if request.budget.usd is not None and all(row.usd_per_hour is None for row in rows):
        raise UserError(f"--budget-usd {request.budget.usd:g} needs a price, which is unknown: {price.origin}")
    size = CHECKPOINT_BYTES * probe.parameters
    kept = max(extent.work.count_validations(0), request.config.training.keep_last)
    stored = extent.block_bytes + request.trials * kept * size
    return CostPlan(
        name=request.config.name,
        trials=request.trials,
        is_exact=extent.is_exact,
        games=extent.games,
        frames=extent.frames,
        work=extent.work,
        probe=probe,
        step=step,
        compute=rows,
        price_note=price.origin,
        block_bytes=extent.block_bytes,
        checkpoint_bytes=size,
        checkpoints=kept,
        keeping=_list_keeping(prices, stored / GIGA, request.trials * size / GIGA),
        assumptions=_list_assumptions(extent, prices, forecast),
    )


def _is_captured(config: ExperimentConfig) -> bool:
    """True if a GPU replays the experiment's steps as CUDA graphs."""
    draws_anew = config.training.batch_parts > 1 and config.model.dropout > 0
    return config.training.compile not in ("off", "compile") and not draws_anew


def _list_compute(
    request: PlanRequest, work: Work, probe: Probe, prices: Prices | None, forecast: Forecast
) -> list[ComputeRow]:
    """This machine first, then every kind of GPU of the price file, by provider."""
    measured = measure_hours(work, probe)
    own = find_price(probe.device, prices)
    here = str(probe.device.get("gpu") or probe.device.get("name"))
    rows = [_make_row(request, f"here: {here}", "", measured, "measured here", own.usd_per_hour, "")]
    for kind in prices.gpus if prices else ():
        assert prices is not None
        offers: dict[str, Figure | None] = {**prices.list_offers(kind)}
        step_seconds, basis = forecast.find_step_seconds(kind)
        hours = None if step_seconds is None else estimate_left(work, 0, step_seconds) / 3600
        if kind == forecast.kind_here:
            hours, basis = measured, "measured here"
        for provider, offer in (offers or {"": None}).items():
            cost, date = (offer.value, offer.date) if offer else (None, "")
            rows.append(_make_row(request, kind, provider, hours, basis, cost, date))
    return rows[:1] + sorted(rows[1:], key=lambda row: rank_provider(row.provider))


def _make_row(
    request: PlanRequest, device: str, provider: str, hours: float | None, basis: str, price: float | None, date: str
) -> ComputeRow:
    usd = None if hours is None or price is None else hours * price
    limit = request.budget.usd
    return ComputeRow(
        device=device,
        provider=provider,
        hours=hours,
        basis=basis,
        usd_per_hour=price,
        price_date=date,
        usd=usd,
        grid_hours=None if hours is None else hours * request.trials,
        grid_usd=None if usd is None else usd * request.trials,
        affordable_trials=limit / usd if limit is not None and usd else None,
    )


def measure_hours(work: Work, probe: Probe) -> float:
    """Hours of a run on this machine, by its probe."""
    validation = probe.validation_target_seconds * (work.validation_targets + work.rollout_frames)
    return estimate_left(work, 0, probe.step_seconds, validation) / 3600


def _list_keeping(prices: Prices | None, stored_gb: float, fetched_gb: float) -> list[KeepingRow]:
    def multiply(price: Figure | None, size: float) -> float | None:
        return None if price is None else price.value * size

    return [
        KeepingRow(
            provider=name,
            storage_usd_month=multiply(provider.storage_gb_month, stored_gb),
            egress_usd=multiply(provider.egress_gb, fetched_gb),
        )
        for name, provider in (prices.providers.items() if prices else ())
    ]


def _list_assumptions(extent: Extent, prices: Prices | None, forecast: Forecast) -> list[str]:
    found = [] if extent.is_exact else ["games and frames are estimated from a sample"]
    if prices:
        found += forecast.list_assumptions()
    found.append("hours leave out starting a machine, installing and encoding; a grid's are one trial after another")
    return found if prices else [*found, "there is no price file: no other machine is known"]
