"""The settings of a grid's trials on its page: each value with the layer that set it."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from tune.axes import show_value
from tune.results import TrialResult
from worldmodel.errors import UserError
from worldmodel.experiment.config_file import as_values, flatten
from worldmodel.run.run_folder import read_config
from worldmodel.storage import Location

LEFT_OUT = ("name", "goal", "training.seed", "save_dir", "data.dataset_dir", "tracking.group")
"""Keys that other parts of the page show."""
MOST = 8
"""Different values that a cell lists."""


def render_settings(folder: Location, trials: Sequence[TrialResult]) -> str:
    """A table of all settings that some layer set; all others have their built-in defaults."""
    rows = "".join(
        f"<tr>{''.join(f'<td class=text>{html.escape(c)}</td>' for c in row)}</tr>"
        for row in _list_rows(folder, trials)
    )
    if not rows:
        return ""
    head = "".join(f"<th class=text>{name}</th>" for name in ("setting", "value", "set by"))
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return f"<details><summary>Settings that are not built-in defaults, and what set them</summary>{table}</details>"


def _list_rows(folder: Location, trials: Sequence[TrialResult]) -> Iterator[tuple[str, str, str]]:
    found = []
    for trial in trials:
        try:
            found.append(
                (flatten(as_values(read_config(folder / trial.name))), trial.record.origins if trial.record else {})
            )
        except UserError:  # not started, or unreadable: the report shows the rest
            continue
    keys = dict.fromkeys(key for values, _ in found for key in values)
    for key in keys:
        origins = dict.fromkeys(origins[key] for _, origins in found if key in origins)
        if origins and key not in LEFT_OUT:
            values = list(dict.fromkeys(show_value(values[key]) for values, _ in found))
            more = f", and {len(values) - MOST} more" if len(values) > MOST else ""
            yield key, ", ".join(values[:MOST]) + more, ", ".join(origins)
