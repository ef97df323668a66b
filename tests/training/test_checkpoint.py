"""Checkpoints: what is loaded is what was saved, to the bit, or it is refused."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.s3_server import serve_s3, use_s3
from worldmodel.errors import UserError
from worldmodel.object_store import StorageError
from worldmodel.storage import Location
from worldmodel.training import checkpoint_files as module
from worldmodel.training.checkpoint import (
    Best,
    Checkpoint,
    CheckpointState,
    NonFiniteStateError,
    check_fits,
    load_checkpoint,
    name_folder,
    read_state,
    restore_rng_state,
    save_checkpoint,
    take_rng_state,
)
from worldmodel.training.checkpoint_files import (
    MANIFEST,
    OPTIMIZER,
    STATE,
    WEIGHTS,
    CheckpointError,
    ForeignCheckpointError,
    fetch_checkpoint,
    write_through,
)
from worldmodel.training.checkpoint_list import (
    Retention,
    apply_retention,
    find_checkpoint,
    find_sound,
    list_checkpoints,
    mark_best,
    newest_good,
    read_best,
)
from worldmodel.training.optimizer_state import flatten_optimizer, restore_optimizer


class Net(nn.Module):
    """A layer that learns, one that never has a gradient, a buffer, and a parameter in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.learned = nn.Linear(5, 3)
        self.unused = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(3)
        self.narrow = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))


def make_optimizer(net: Net, fused: bool = False) -> torch.optim.AdamW:
    groups = [
        {"params": [net.learned.weight, net.narrow], "weight_decay": 0.1},
        {"params": [net.norm.weight, net.norm.bias, net.learned.bias, *net.unused.parameters()], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-2, fused=fused)


def train(net: Net, optimizer: torch.optim.AdamW, steps: range) -> None:
    for step in steps:
        inputs = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        loss = ((net.norm(net.learned(inputs)) * net.narrow.float() - inputs[:, :3]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def make_checkpoint(step: int = 4, tags: tuple[str, ...] = ()) -> Checkpoint:
    torch.manual_seed(step)
    net = Net()
    optimizer = make_optimizer(net)
    train(net, optimizer, range(1))
    return Checkpoint.of(net, optimizer, CheckpointState(step=step, tags=tags, config={"name": "a", "lr": 5e-4}))


def is_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    same = [torch.equal(left[k], right[k]) and left[k].dtype == right[k].dtype for k in left if k in right]
    return left.keys() == right.keys() and all(same)


@pytest.fixture
def run(tmp_path: Path) -> Location:
    return Location.of(tmp_path / "run")


@pytest.mark.parametrize("fused", [False, True])
def test_training_through_a_checkpoint_equals_uninterrupted_training(run: Location, fused: bool) -> None:
    torch.manual_seed(0)
    whole = Net()
    broken = copy.deepcopy(whole)
    whole_optimizer, broken_optimizer = make_optimizer(whole, fused), make_optimizer(broken, fused)
    train(whole, whole_optimizer, range(12))
    train(broken, broken_optimizer, range(7))
    location = save_checkpoint(run, Checkpoint.of(broken, broken_optimizer, CheckpointState(step=7)))

    torch.manual_seed(99)
    fresh = Net()
    fresh_optimizer = make_optimizer(fresh, fused)
    loaded = load_checkpoint(location)
    fresh.load_state_dict(dict(loaded.weights))
    restore_optimizer(fresh, fresh_optimizer, loaded.optimizer)
    train(fresh, fresh_optimizer, range(loaded.state.step, 12))
    assert is_same(dict(fresh.state_dict()), dict(whole.state_dict()))
    assert is_same(flatten_optimizer(fresh, fresh_optimizer), flatten_optimizer(whole, whole_optimizer))
    assert not torch.equal(fresh.learned.weight, broken.learned.weight)


def test_a_loaded_checkpoint_is_the_saved_one(run: Location) -> None:
    best = Best(metric="val_metric/position_mae", value=0.19, step=4, path=name_folder(4))
    saved = make_checkpoint()
    state = saved.state.model_copy(update={"best": best, "metrics": {"loss/total": 1.5, "grad": None}, "epoch": 2})
    saved = Checkpoint(weights=saved.weights, optimizer=saved.optimizer, state=state)
    loaded = load_checkpoint(save_checkpoint(run, saved))
    assert is_same(dict(loaded.weights), dict(saved.weights))
    assert is_same(dict(loaded.optimizer), dict(saved.optimizer))
    assert loaded.state == saved.state


def test_optimizer_state_is_named_by_parameter_and_absent_without_gradients() -> None:
    names = set(make_checkpoint().optimizer)
    assert {n for n in names if n.endswith("/narrow")} == {"step/narrow", "exp_avg/narrow", "exp_avg_sq/narrow"}
    assert not [n for n in names if "unused" in n]


def test_a_copy_is_taken_so_training_may_go_on() -> None:
    net = Net()
    optimizer = make_optimizer(net)
    train(net, optimizer, range(1))
    taken = Checkpoint.of(net, optimizer, CheckpointState(step=1))
    before = {name: value.clone() for name, value in (*taken.weights.items(), *taken.optimizer.items())}
    train(net, optimizer, range(1, 3))
    assert is_same(before, {**taken.weights, **taken.optimizer})


def test_another_models_optimizer_state_is_refused() -> None:
    net = Net()
    optimizer = make_optimizer(net)
    with pytest.raises(UserError, match="'alien' that this model lacks"):
        restore_optimizer(net, optimizer, {"exp_avg/alien": torch.zeros(3)})
    with pytest.raises(UserError, match=r"shape \(4,\) for 'narrow', expected \(3,\)"):
        restore_optimizer(net, optimizer, {"exp_avg/narrow": torch.zeros(4)})


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER, STATE])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_refused_and_named(run: Location, name: str, damage: str) -> None:
    file = save_checkpoint(run, make_checkpoint()) / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "remove":
        file.delete()
    else:
        file.write_bytes(bytes(content) if damage == "flip" else bytes(content[:-1]))
    with pytest.raises(CheckpointError, match=rf"damaged: .*({name}|sha256).*use an older checkpoint"):
        load_checkpoint(file.parent)


@pytest.mark.parametrize(
    "content",
    [
        "", "{}", '{"format": 1, "fil', "[]", '{"format": 1, "files": {}}', '{"format": 1, "files": []}',
        '{"format": 1, "files": {"weights.safetensors": 5}}', '{"format": "1", "files": {}}',
        '{"format": 1, "files": {"../../escape": {"bytes": 1, "sha256": "' + 64 * "0" + '"}}}',
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_refused(run: Location, tmp_path: Path, content: str) -> None:
    location = save_checkpoint(run, make_checkpoint())
    (location / MANIFEST).write_text(content)
    with pytest.raises(CheckpointError, match=r"is damaged|lists no"):
        load_checkpoint(location)
    with pytest.raises(CheckpointError):
        fetch_checkpoint(location, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("version", [module.FORMAT + 1, 0, -1])
def test_a_foreign_format_is_refused_and_no_older_checkpoint_taken_for_it(run: Location, version: int) -> None:
    save_checkpoint(run, make_checkpoint(1))
    location = save_checkpoint(run, make_checkpoint(2))
    manifest = json.loads((location / MANIFEST).read_text())
    (location / MANIFEST).write_text(json.dumps({**manifest, "format": version}))
    for read in (load_checkpoint, lambda place: newest_good(run)):
        with pytest.raises(ForeignCheckpointError, match=rf"format {version}, .*reads format 1: "):
            read(location)


def test_a_checkpoint_of_another_model_data_set_or_schema_is_refused_with_every_difference(run: Location) -> None:
    found = make_checkpoint()
    location = save_checkpoint(run, found)
    state, net = found.state.model_copy(update={"data_fingerprint": "abc"}), Net()
    check_fits(location, found, state, net)  # an unknown fingerprint differs from none
    found = Checkpoint(weights=found.weights, optimizer=found.optimizer, state=state)
    other = state.model_copy(update={"data_fingerprint": "xyz", "schema_hash": "1", "model_hash": "2"})
    net.learned = nn.Linear(6, 3)
    with pytest.raises(ForeignCheckpointError) as caught:
        check_fits(location, found, other, net)
    names = [line.strip().split(":")[0] for line in str(caught.value).splitlines()[1:]]
    assert names == ["schema_hash", "model_hash", "data_fingerprint", "learned.weight"]


@pytest.mark.parametrize("where", ["weights", "optimizer"])
def test_a_state_that_is_no_number_is_not_saved(run: Location, where: str) -> None:
    older = save_checkpoint(run, make_checkpoint(1))
    bad = make_checkpoint(2)
    next(v for v in getattr(bad, where).values() if v.dim())[:] = float("nan")
    with pytest.raises(NonFiniteStateError, match="no numbers at step 2"):
        save_checkpoint(run, bad)
    assert newest_good(run).location == older


def test_a_digest_names_every_bit(run: Location) -> None:
    one = make_checkpoint()
    assert one.digest == load_checkpoint(save_checkpoint(run, one)).digest
    for part in ("weights", "optimizer"):
        other = make_checkpoint()
        value = next(v for v in getattr(other, part).values() if v.dim())
        value.view(torch.uint8).view(-1)[0] ^= 1
        assert other.digest != one.digest


def test_what_a_disk_gives_back_changed_is_not_kept(run: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    older = save_checkpoint(run, make_checkpoint(1))

    def damage(path: Path, content: bytes) -> None:
        write_through(path, content[:-1] + b"?" if path.name == OPTIMIZER else content)

    monkeypatch.setattr(module, "write_through", damage)
    for step in (1, 2):  # also in the place of the older one
        with pytest.raises(StorageError, match=r"optimizer.safetensors: the store returned"):
            save_checkpoint(run, make_checkpoint(step))
    assert [e.name for e in older.parent.list_entries()] == [older.name]
    assert newest_good(run).location == older


def test_without_a_manifest_there_is_no_checkpoint(run: Location) -> None:
    location = save_checkpoint(run, make_checkpoint())
    (location / MANIFEST).delete()
    assert list_checkpoints(run) == []
    assert newest_good(run).checkpoint is None
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        load_checkpoint(location)


@pytest.mark.parametrize("after", [WEIGHTS, OPTIMIZER, STATE, MANIFEST])
def test_a_save_that_dies_leaves_the_older_checkpoint_and_no_newer_one(
    run: Location, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = save_checkpoint(run, make_checkpoint(1))

    def die(path: Path, content: bytes) -> None:
        write_through(path, content)
        if path.name == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_through", die)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(run, make_checkpoint(2))
    assert list_checkpoints(run) == [older]
    assert newest_good(run).location == older


def test_the_newest_sound_checkpoint_is_found_and_the_damaged_named(run: Location) -> None:
    places = [save_checkpoint(run, make_checkpoint(step)) for step in (3, 20, 100)]
    (places[2] / WEIGHTS).write_bytes(b"torn")
    found = newest_good(run)
    assert found.location == places[1]
    assert found.checkpoint is not None
    assert found.checkpoint.state.step == 20
    assert len(found.complaints) == 1
    assert "step-00000100/weights.safetensors" in found.complaints[0]


def test_saving_a_step_again_keeps_its_reasons(run: Location) -> None:
    save_checkpoint(run, make_checkpoint(5, ("epoch",)))
    location = save_checkpoint(run, make_checkpoint(5, ("stop", "epoch")))
    assert read_state(location).tags == ("epoch", "stop")
    assert list_checkpoints(run) == [location]
    assert [entry.name for entry in location.parent.list_entries()] == [location.name]


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (Retention(), [10, 20, 30, 50, 60]),
        (Retention(keep_best=False), [10, 30, 50, 60]),
        (Retention(keep_epochs=False), [20, 50, 60]),
        (Retention(keep_last=1, keep_epochs=False, keep_best=False), [60]),
        (Retention(keep_last=0), [10, 20, 30]),
    ],
)
def test_retention_keeps_the_newest_the_epochs_and_the_best(run: Location, policy: Retention, kept: list[int]) -> None:
    for step in (10, 20, 30, 40, 50, 60):
        save_checkpoint(run, make_checkpoint(step, ("epoch",) if step in (10, 30) else ("minutes",)))
    mark_best(run, Best(metric="m", value=1.0, step=20, path=name_folder(20)))
    ((run / "checkpoints") / ".writing-abc/weights.safetensors").write_text("left by a crash")
    removed = apply_retention(run, policy)
    assert list_checkpoints(run) == [run / name_folder(step) for step in kept]
    assert {place.name for place in removed} == {f"step-{s:08d}" for s in {10, 20, 30, 40, 50, 60} - set(kept)}
    assert not [e.name for e in (run / "checkpoints").list_entries() if e.name.startswith(".writing")]


@given(keep_last=st.integers(0, 6), saves=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_after_every_save_so_many_of_the_newest_are_there_or_all_that_were_saved(keep_last: int, saves: int) -> None:
    policy = Retention(keep_last=keep_last, keep_epochs=False, keep_best=False)
    with tempfile.TemporaryDirectory() as folder:
        run, saved = Location.of(folder), list[Location]()
        for step in range(1, saves + 1):
            saved.append(run / name_folder(step))
            (saved[-1] / MANIFEST).write_text("")
            apply_retention(run, policy, step)
            assert list_checkpoints(run) == saved[max(0, step - keep_last) :]


def test_the_best_is_never_a_damaged_checkpoint(run: Location) -> None:
    good, bad = (save_checkpoint(run, make_checkpoint(step)) for step in (1, 2))
    assert read_best(run) is None
    best = Best(metric="m", value=2.0, step=1, path=name_folder(1))
    mark_best(run, best)
    (bad / WEIGHTS).write_bytes(b"torn")
    with pytest.raises(CheckpointError):
        mark_best(run, Best(metric="m", value=1.0, step=2, path=name_folder(2)))
    assert read_best(run) == best
    assert find_checkpoint(run, "best") == good
    assert find_checkpoint(run) == find_checkpoint(run, "2") == bad
    with pytest.raises(CheckpointError, match=r"no checkpoint '7'.*a step of: 1, 2"):
        find_checkpoint(run, "7")


def test_a_fetched_checkpoint_is_whole_and_a_torn_fetch_is_mended(run: Location, tmp_path: Path) -> None:
    location = save_checkpoint(run, make_checkpoint())
    target = tmp_path / "here"
    files = fetch_checkpoint(location, target)
    assert {f.name for f in files} == {WEIGHTS, OPTIMIZER, STATE, MANIFEST}
    (target / WEIGHTS).write_bytes(b"torn")
    fetch_checkpoint(location, target)
    assert is_same(dict(load_checkpoint(Location.of(target)).weights), dict(load_checkpoint(location).weights))
    (location / WEIGHTS).write_bytes(b"damaged at the source")
    with pytest.raises(UserError, match="damaged"):
        fetch_checkpoint(location, tmp_path / "other")


def test_generators_go_on_where_they_were() -> None:
    states = json.loads(json.dumps(take_rng_state()))
    expected = torch.rand(5)
    restore_rng_state(states)
    assert torch.equal(torch.rand(5), expected)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serve_s3() as url:
        yield url


def test_an_object_store_holds_the_same_checkpoints(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(monkeypatch, endpoint)
    run = Location.of("s3://games/runs/a")
    places = [save_checkpoint(run, make_checkpoint(step)) for step in (1, 2, 3)]
    mark_best(run, Best(metric="m", value=1.0, step=1, path=name_folder(1)))
    assert apply_retention(run, Retention(keep_last=1)) == [places[1]]
    assert list_checkpoints(run) == [places[0], places[2]]
    assert is_same(dict(load_checkpoint(places[2]).weights), dict(make_checkpoint(3).weights))
    fetch_checkpoint(find_checkpoint(run, "best"), tmp_path / "best")
    assert read_state(Location.of(tmp_path / "best")).step == 1


def test_a_store_that_damages_bytes_keeps_no_checkpoint(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_s3(monkeypatch, endpoint)
    run = Location.of("s3://games/runs/b")
    older = save_checkpoint(run, make_checkpoint(1))
    write = Location.write_bytes

    def damage(self: Location, content: bytes) -> None:
        write(self, content[:-1] + b"?" if self.name == OPTIMIZER else content)

    monkeypatch.setattr(Location, "write_bytes", damage)
    with pytest.raises(StorageError, match=r"optimizer.safetensors: the store returned"):
        save_checkpoint(run, make_checkpoint(2))
    assert list_checkpoints(run) == [older]


def test_a_store_that_does_not_answer_says_nothing_of_a_checkpoint(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(monkeypatch, endpoint)
    run = Location.of("s3://games/runs/c")
    for step in (1, 2):
        save_checkpoint(run, make_checkpoint(step))
    read = Location.read_bytes

    def fail(self: Location) -> bytes:
        if self.name == WEIGHTS:
            raise StorageError("503 Slow Down")
        return read(self)

    monkeypatch.setattr(Location, "read_bytes", fail)
    with pytest.raises(StorageError, match="503") as caught:
        newest_good(run)
    assert not isinstance(caught.value, CheckpointError)


def test_a_damaged_checkpoint_that_was_passed_over_costs_no_sound_one(run: Location) -> None:
    places = [save_checkpoint(run, make_checkpoint(step)) for step in (20, 100)]
    (places[1] / WEIGHTS).write_bytes(b"torn")
    for step in (60, 80):  # trained again from 20
        places.append(save_checkpoint(run, make_checkpoint(step)))
        apply_retention(run, Retention(), step)
    assert list_checkpoints(run) == [places[2], places[3], places[1]]
    assert newest_good(run).location == find_sound(run) == places[3]
