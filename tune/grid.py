"""Any grid of experiments on whatever Ray there is, and tables that can be believed.

    python tune/grid.py mine.yaml --vary training.lr=1e-3,2e-3 --vary model.d_model=128,192 --seeds 3 --data ../games
    python tune/grid.py mine.yaml --sample 'training.lr=loguniform(1e-3,2e-2)' --trials 30 --scheduler asha --epochs 9
    ray job submit --working-dir . -- python tune/grid.py mine.yaml --vary model.n_layers=2,4

No data named: toy games. No scale named: a laptop's size.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import psutil

if __package__ in (None, ""):  # run as a script: its own package lies one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tune.axes import show_value
from tune.costs import GridCosts, check_price, describe_costs
from tune.health import check_health, wait_for_machine
from tune.live import Grid, show_live
from tune.options import GridRequest, check_halving, check_name, check_search, check_size, plan_grid, read_defaults
from tune.preparation import TOY_SETTINGS, check_games, check_source, check_writable, prepare_data, say
from tune.record import GRID, GridRecord, name_trial, read_grid
from tune.report import REPORT, render_terminal, to_json, write_report
from tune.resources import Cluster, Resources, check_reach, plan_resources
from tune.results import TrialResult, read_trial
from tune.search import make_search
from tune.timeline import DOCTOR, ENCODE, MACHINES, RAY, FirstStep, prepend_submission
from tune.trials import WAITING, TrialRun, is_done, run_trials
from tune.variants import Trial, count_trials, describe_published, list_differences, make_trials
from tune.watch import GridWatch
from worldmodel.cli.arguments import parse_arguments
from worldmodel.errors import UserError
from worldmodel.features.plan import check_world
from worldmodel.ray_session import join_ray
from worldmodel.run.card import write_card
from worldmodel.run.head_watch import HeadWatch
from worldmodel.run.lock import take_lock
from worldmodel.run.record import State
from worldmodel.run.run import Run
from worldmodel.run.run_folder import LIVE, add_resume
from worldmodel.run.timeline import CHECKS, begin_timeline
from worldmodel.storage import Location

LOG_WIDTH = 120
"""Columns of the tables where no terminal says how many it has."""
STOPPED = 130
"""Exit status of a grid that was asked to stop."""


def main(
    arguments: Sequence[str] | None = None, since: float | None = None, kind: type[GridRequest] = GridRequest
) -> int:
    """Run a grid; the exit status is 0 where every trial finished, 1 where one did not, 2 for a wrong request or what
    the doctor found, 130 where it was asked to stop. `since`: when the process began, in seconds since 1970."""
    try:
        return run(parse_arguments(kind, arguments, default=read_defaults(kind)), since)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return STOPPED


def run(options: GridRequest, since: float | None = None) -> int:
    """Check the request, prepare the data, run what is missing, write the report."""
    timeline = begin_timeline(since)
    check_name(options.name)
    plan = plan_grid(options, options.data, TOY_SETTINGS)
    check_search(options, plan)
    check_size(options, count_trials(plan))
    wished = make_trials(plan)
    check_world(options.workers_per_trial)
    check_halving(options, wished[0].config.training.num_epochs)
    budget, older = options.budget, _find_older(options)
    join_ray()
    timeline.mark(RAY)
    prepend_submission(timeline)
    cluster = Cluster.find()
    resources = plan_resources(cluster, options.gpus_per_trial, options.workers_per_trial)
    check_reach(cluster, [options.place, *([options.data] if options.data else [])])
    check_price(budget, resources, older)
    if cluster.gpus and not options.gpus_per_trial:
        say(f"note: the cluster has {cluster.gpus:g} GPUs, and trials will use none: ask for --gpus-per-trial 1")
    check_source(options.data)
    check_writable(options.folder)
    for note in dict.fromkeys([*options.notes, *(note for trial in wished for note in trial.notes)]):
        say(f"note: {note}")
    if options.dry_run:
        return show_plan(options, wished, resources)
    if not options.skip_doctor:
        timeline.mark(CHECKS)
        wait_for_machine(resources, say)
        timeline.mark(MACHINES)
        check_health(options, resources, cluster, wished[0].config.tracking.wandb, say)
        timeline.mark(DOCTOR)
    blocks = prepare_data(options)
    timeline.mark(ENCODE)
    plan = plan_grid(options, blocks, TOY_SETTINGS)
    search = make_search(plan, older) if options.is_adaptive else None
    trials = search.trials if search else make_trials(plan)
    check_games(blocks, trials or [search.base] if search else trials)
    todo = [trial for trial in trials if not is_done(options.folder, trial, halving=options.scheduler == "asha")]
    count = len(todo) + (search.count - len(trials) if search else 0)
    say(f"{options.folder}: {resources.describe(count)}; {len(trials) - len(todo)} done before")
    record = _make_record(options, trials, blocks, resources, older)
    record.cluster = {"CPUs": cluster.cpus, "GPUs": cluster.gpus, "machines": cluster.machines}
    record.phases = timeline.phases
    costs, first = GridCosts(budget=budget, record=record, say=say), FirstStep(record, say)
    watch = GridWatch(
        folder=options.folder, trials=trials, record=record, judge=costs.judge, hear=first.look,
        find_loss=HeadWatch.join().find_loss,
    )  # fmt: skip
    if search:
        search.hear = lambda trial: record.trials.append(name_trial(trial))
    how = TrialRun(
        folder=options.folder, resources=resources, halving=options.scheduler == "asha", is_over=lambda: watch.is_over,
        search=search,
    )  # fmt: skip
    return _carry_out(options, watch, todo, how)


def show_plan(options: GridRequest, trials: Sequence[Trial], resources: Resources) -> int:
    """Say what would run, and in what the trials differ."""
    say(f"{options.folder}: {resources.describe(len(trials))}" + (", the first draws:" if options.is_adaptive else ":"))
    differences = list_differences(trials)
    for trial, values in zip(trials, differences, strict=True):
        say(f"  {trial.name}  {' '.join(f'{key}={show_value(value)}' for key, value in values.items())}".rstrip())
    for note in describe_published(trials):
        say(f"note: {note}")
    if options.json:
        told = [{"name": t.name, "differs": values} for t, values in zip(trials, differences, strict=True)]
        print(json.dumps({"folder": str(options.folder), "at_once": resources.at_once, "trials": told}))
    return 0


def _carry_out(options: GridRequest, watch: GridWatch, todo: Sequence[Trial], how: TrialRun) -> int:
    with take_lock(watch.folder, say), watch.watching():
        with show_live(Grid(folder=options.folder, trials=watch.trials, at_once=watch.record.at_once)):
            errors = run_trials(todo, how)
        watch.look()
        results = [read_trial(options.folder, trial, errors.get(trial.name, "")) for trial in watch.trials]
        watch.judge(watch.seconds, [result.record for result in results if result.record])
        is_complete = all(result.is_finished or result.is_stopped_early for result in results)
        is_complete = is_complete and (how.search is None or len(results) >= how.search.count)
        if is_complete:
            watch.close(State.FINISHED, "")
        elif watch.reason:
            watch.close(State.FAILED if watch.loss else State.STOPPED, watch.reason)
        else:
            watch.close(State.FAILED, _count_missing(results))
    if watch.reason and not is_complete:
        pass_on(options.folder, results, watch.record.resume_command)
    show(options, results, watch.record)
    return 0 if is_complete else STOPPED if watch.record.state is State.STOPPED else 1


def pass_on(folder: Location, results: Sequence[TrialResult], resume_command: str) -> None:
    """Write the command that goes on with the grid, which may name a larger budget, into what did not finish."""
    for result in results:
        if result.failure and result.record and result.record.resume_command != resume_command:
            run = Run(folder / result.name, result.record)
            run.update(resume_command=resume_command)
            run.write()
            write_card(folder / result.name)


def _count_missing(results: Sequence[TrialResult]) -> str:
    missing = [result for result in results if result.failure]
    if not missing:
        return f"the search ended after {len(results)} trials: no new point was found"
    return f"{len(missing)} of {len(results)} trials did not finish; the first: {missing[0].failure}"


def show(options: GridRequest, results: Sequence[TrialResult], record: GridRecord) -> None:
    """Write the report and show its tables."""
    tables = write_report(options.folder, results)
    from rich.console import Console

    console = Console(file=sys.stderr if options.json else sys.stdout)
    if not console.is_terminal:  # a log has lines as long as they need to be
        console = Console(file=console.file, width=LOG_WIDTH)
    console.print(render_terminal(tables, results))
    for note in record.notes:
        say(f"note: {note}")
    say(f"report: {options.folder / REPORT}")
    say(describe_costs(record))
    if record.state is not State.FINISHED:
        say(f"{record.state.value}: {record.reason}\ngo on with: {record.resume_command}")
    if options.json:
        print(json.dumps(to_json(tables, results)))


def _make_record(
    options: GridRequest, trials: Sequence[Trial], blocks: str, resources: Resources, older: GridRecord | None
) -> GridRecord:
    """The grid's record, with what earlier attempts took."""
    record = GridRecord(
        name=options.name, state=State.RUNNING, blocks=blocks,
        at_once=resources.at_once,
        trials=[name_trial(trial) for trial in trials], notes=describe_published(trials),
    )  # fmt: skip
    record.resume_command = add_resume(record.command)
    if older is None:
        return record
    kept = {"started": older.started, "seconds": older.seconds, "cost_usd": older.cost_usd}
    if older.trials == record.trials:
        kept |= {name: getattr(older, name) for name in ("estimated_seconds", "estimated_cost_usd")}
    return record.model_copy(update=kept)


def _find_older(options: GridRequest) -> GridRecord | None:
    """The record of the grid that is to go on. UserError where there is a grid already, or one that is running."""
    found = options.folder.list_entries()
    if found and not options.resume:
        raise UserError(
            f"there is a grid in {options.folder} already: go on with it by --resume, or choose another --name"
        )
    if not (options.folder / GRID).exists():
        return None
    older = read_grid(options.folder)
    if older.state in LIVE:
        raise UserError(
            f"the grid in {options.folder} is still running on {older.hosts[0]} (process {older.pid}): stop it first "
            "(worldmodel stop), or wait until it ends"
        )
    return older


def leave(status: int) -> NoReturn:
    """End the process, also where a Ray that is gone would be waited for."""
    if any(thread.name == WAITING for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    leave(main(since=psutil.Process().create_time()))
