"""Nothing that is loaded can run code: no pickle, no YAML objects, no objects between workers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "dill.load",
    "joblib.load", "marshal.load", "marshal.loads", "shelve.open", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "yaml.load_all",
    "torch.jit.load", "torch.package.PackageImporter", "pd.read_pickle", "pandas.read_pickle",
    "dist.all_gather_object", "dist.broadcast_object_list", "dist.gather_object", "dist.scatter_object_list",
}  # fmt: skip
NEEDED = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
"""Calls that are safe with one argument alone."""


def find_calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Dotted name of every call."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def find_faults(source: str) -> list[str]:
    """Calls that may run code from a file."""
    found = []
    for name, call in find_calls(source):
        wanted = NEEDED.get(name)
        given = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
        if name in FORBIDDEN or (wanted and given.get(wanted[0], "absent") is not wanted[1]):
            found.append(f"line {call.lineno}: {ast.unparse(call)}")
    return found


def list_files() -> list[Path]:
    folders = [ROOT / name for name in ("worldmodel", "tune", "cluster", "infra")]
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def test_no_code_loads_what_could_run_code() -> None:
    faults = {str(path.relative_to(ROOT)): found for path in list_files() if (found := find_faults(path.read_text()))}
    assert faults == {}


@pytest.mark.parametrize(
    "source",
    ["torch.load(path)", "torch.load(path, weights_only=False)", "pickle.loads(data)", "yaml.load(text, Loader)",
     "np.load(file, allow_pickle=True)", "np.load(file)", "dist.broadcast_object_list(found)"],
)  # fmt: skip
def test_the_search_finds_what_it_searches(source: str) -> None:
    assert find_faults(source)


def test_the_search_reads_the_files_that_load() -> None:
    names = {name for path in list_files() for name, _ in find_calls(path.read_text())}
    assert "torch.load" in names
