"""The time of a training step on another GPU: measured by an earlier run, else predicted by a roofline.

Roofline (Williams et al. 2009): memory or arithmetic limits a GPU, whichever takes longer. Each kernel costs a gap
besides. None of the constants below was measured on this program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from worldmodel.errors import UserError
from worldmodel.experiment.config import ExperimentConfig
from worldmodel.run.prices import Prices
from worldmodel.run.probe import Probe
from worldmodel.run.record import State
from worldmodel.run.run_folder import find_runs, read_config
from worldmodel.run.step_work import StepWork
from worldmodel.storage import Location

MEMORY_SHARE, PEAK_SHARE = 0.8, 0.6
"""Shares of a data sheet's memory bandwidth and peak that kernels are assumed to reach."""
GAP = 1.5e-6
"""Seconds that a GPU is idle between two kernels, in a CUDA graph or where the host is ahead."""
LAUNCH, TRITON_LAUNCH = 6.5e-6, 30e-6
"""Seconds of the host to launch a kernel of torch, and a generated one, without a CUDA graph."""
TERA = 1e12
KEYS = ("mode", "sequence_length", "batch_size", "batch_parts", "amp", "compile")
"""Training settings on which the time of a step depends."""


@dataclass(frozen=True, kw_only=True)
class PastPace:
    """The measured pace of one finished run."""

    run: str
    """Its name."""
    step_seconds: float


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Finds the time of a step on each kind of GPU."""

    amp: bool
    """True if products are in bfloat16."""
    work: StepWork
    probe: Probe
    prices: Prices | None
    is_captured: bool
    """True if a step on a GPU is replayed as a CUDA graph."""
    paces: Mapping[str, PastPace] = field(default_factory=dict)
    """See `find_paces`."""

    @property
    def kind_here(self) -> str | None:
        """The kind of this machine's GPU; None: it has none, or an unknown one."""
        return self.prices.find_kind(str(self.probe.device.get("gpu", ""))) if self.prices else None

    def find_step_seconds(self, kind: str) -> tuple[float | None, str]:
        """Seconds of a step on a kind of GPU, and their basis for people."""
        if pace := self.paces.get(kind):
            return pace.step_seconds, f"measured by run {pace.run}"
        parts = self._find_parts(kind)
        if parts is None:
            return None, "unknown: no peak or no bandwidth"
        seconds = self._combine(parts)
        bound = max(parts, key=lambda name: parts[name])
        here = self._find_parts(self.kind_here) if self.kind_here else None
        if here is None:
            return seconds, f"roofline: {1000 * seconds:.3g} ms/step ({bound})"
        factor = self.probe.step_seconds / self._combine(here)
        return factor * seconds, f"{factor:.2g} x roofline, as {self.kind_here} here"

    def _find_parts(self, kind: str) -> dict[str, float] | None:
        """Seconds of memory, arithmetic and launches; None: the kind's peak or bandwidth is unknown."""
        assert self.prices is not None
        gpu = self.prices.gpus[kind]
        peak = gpu.bf16_tflops if self.amp else gpu.fp32_tflops
        if peak is None or gpu.memory_tb_s is None:
            return None
        launches = LAUNCH * self.work.products + TRITON_LAUNCH * self.work.chains
        return {
            "memory": self.work.memory_bytes / (MEMORY_SHARE * gpu.memory_tb_s.value * TERA),
            "arithmetic": self.work.operations / (PEAK_SHARE * peak.value * TERA),
            "launches": self._gaps if self.is_captured else launches,
        }

    @property
    def _gaps(self) -> float:
        return GAP * (self.work.products + self.work.chains)

    def _combine(self, parts: Mapping[str, float]) -> float:
        """A step's seconds. Gaps add to the kernels' own time; launches of the host overlap with both."""
        busy = max(parts["memory"], parts["arithmetic"]) + self._gaps
        return busy if self.is_captured else max(busy, parts["launches"])

    def list_assumptions(self) -> list[str]:
        """The basis of the roofline, in lines for people."""
        host = f"{1e6 * GAP:g} us between two kernels"
        if not self.is_captured:
            host += f", {1e6 * LAUNCH:g} us for the host to launch a product and {1e6 * TRITON_LAUNCH:g} us a chain"
        operations, traffic = (each / self.work.targets for each in (self.work.operations, self.work.memory_bytes))
        return [
            f"a target takes {operations / 1e6:.3g} million operations (matrix products, forward and backward) and "
            f"{traffic / 1e3:,.0f} KB of memory traffic; a step is "
            f"{self.work.products} products and {self.work.chains} fused chains; all counted on CPU tensors, a chain "
            "as its inputs + outputs",
            f"roofline: {MEMORY_SHARE:.0%} of the data sheet's memory bandwidth, {PEAK_SHARE:.0%} of its peak, {host}, "
            "data in time: assumed, not measured",
        ]


def find_paces(storage: Location, config: ExperimentConfig, prices: Prices | None) -> dict[str, PastPace]:
    """Kind of GPU to the pace of the latest finished run there of an equal model in equal batches, on one GPU."""
    found: dict[str, PastPace] = {}
    for run in find_runs(storage) if prices else ():
        record = run.record
        kind = prices.find_kind(str(record.device.get("gpu", ""))) if prices else None
        if kind is None or kind in found or record.state is not State.FINISHED or record.world_size > 1:
            continue
        if record.step and record.seconds.training and _read_key(run.location) == _make_key(config):
            found[kind] = PastPace(run=record.name, step_seconds=record.seconds.training / record.step)
    return found


def _read_key(location: Location) -> tuple[Any, ...] | None:
    try:
        return _make_key(read_config(location))
    except UserError:  # a run of another version
        return None


def _make_key(config: ExperimentConfig) -> tuple[Any, ...]:
    """All settings on which the time of a step depends."""
    training = (getattr(config.training, key) for key in KEYS)
    return (config.model, config.encoding, config.self_forcing, *training)
