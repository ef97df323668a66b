"""What is checked before a run goes on."""

from __future__ import annotations

import pytest

from worldmodel.errors import UserError
from worldmodel.experiment.config import TrainingConfig
from worldmodel.run.record import RunRecord, State
from worldmodel.run.train import check_length
from worldmodel.training.schedule import Schedule


@pytest.mark.parametrize(
    ("state", "step", "epochs"),
    [(State.FINISHED, 150, 2), (State.STOPPED, 120, 2), (State.STOPPED, 100, 2), (State.LOST, 50, 1)],
)
def test_a_run_that_has_done_more_than_is_asked_for_is_refused_with_what_was_found(
    state: State, step: int, epochs: int
) -> None:
    older = RunRecord(name="trial", state=state, step=step, total_steps=150)  # three epochs
    with pytest.raises(UserError, match=rf"has done {step} of 150 steps, and only {50 * epochs} \({epochs} epochs\)"):
        check_length(older, Schedule.of(TrainingConfig(num_epochs=epochs), 50))


@pytest.mark.parametrize(
    ("state", "step", "epochs"),
    [(State.FINISHED, 150, 3), (State.STOPPED, 150, 3), (State.FINISHED, 150, 9), (State.STOPPED, 99, 2)],
)
def test_a_run_with_steps_left_or_just_as_many_as_asked_for_goes_on(state: State, step: int, epochs: int) -> None:
    older = RunRecord(name="trial", state=state, step=step, total_steps=150)
    check_length(older, Schedule.of(TrainingConfig(num_epochs=epochs), 50))
    check_length(RunRecord(name="trial"), Schedule.of(TrainingConfig(num_epochs=epochs), 50))
