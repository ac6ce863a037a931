"""How does a comparison become one HTML page?

Python says what is drawn (`figures`), the template what is written; the browser draws with plotly.js, in its theme.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from peftsweep import __version__
from peftsweep.dashboard import formats
from peftsweep.dashboard.figures import figures
from peftsweep.dashboard.plot_style import TEMPLATE, Figure
from peftsweep.scores import columns
from peftsweep.system import json_files, plain_files
from peftsweep.trial_state import TrialState

HERE = Path(__file__).parent
TITLE = "<title>peftsweep · comparison</title>"
ONLY = re.compile(r'<meta name="peftsweep:only" content="([^"]*)">')
HEAD = 100_000  # bytes searched for it; they hold the names of a thousand studies
SHOWN = 12  # trials of a study in its table
LONG = 8  # entries of a list that is worth a place of its own


def page(rows: Mapping[str, Any], made: datetime | None = None) -> str:
    """The page of a comparison.

    Args:
        rows: `Comparison.as_dict()`: leaders, groups, histories.
        made: time that the page shows; now by default.
    """
    from plotly.offline import get_plotlyjs

    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            **rows,
            title=TITLE,
            version=__version__,
            made=(made or datetime.now().astimezone()).replace(microsecond=0),
            by_study={row["study"]: row for row in rows["leaders"]},
            names=columns(),
            bounds={"macro_f1": "interval", "macro_f1_tuned": "interval_tuned"},
            sortable=formats.sortable,
            share=share,
            top=top,
            loop_index=[history["study"] for history in rows["histories"]].index,
            figures=embedded(figures(rows)),
            plotly=get_plotlyjs(),
            script=(HERE / "page.js").read_text(encoding="utf-8"),
        )
    )


def is_page(file: Path) -> bool:
    """Whether `page` made a file."""
    try:
        with plain_files.opened(file) as opened:
            return TITLE.encode() in opened.read(2000)
    except (OSError, ValueError):
        return False


def only_of(file: Path) -> list[str]:
    """The studies that a page is limited to; empty if it shows all, or if the file is no page."""
    if not is_page(file):
        return []
    with plain_files.opened(file) as opened:
        found = ONLY.search(opened.read(HEAD).decode(errors="replace"))
    return [] if found is None else [name for name in html.unescape(found[1]).split("\n") if name]


def embedded(figures: Mapping[str, Figure]) -> str:
    """The figures as JSON that is safe inside a script element, whatever text it holds.

    Many figures have the same columns, such as the trials' values. Each is written once, among `columns`; its place
    there, as `{"column": 7}`, stands in the figures.
    """
    columns: dict[str, int] = {}
    shared = {name: _shared(figure, columns) for name, figure in figures.items()}
    text = f'{{"template":{_json(TEMPLATE)},"columns":[{",".join(columns)}],"figures":{_json(shared)}}}'
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _shared(value: Any, columns: dict[str, int]) -> Any:
    """The value with places in `columns`, which are added to, in place of long lists of plain values."""
    if isinstance(value, dict):
        return {key: _shared(each, columns) for key, each in value.items()}
    if not isinstance(value, list):
        return value
    if len(value) < LONG or any(_is_filled_in(each) for each in value):
        return [_shared(each, columns) for each in value]
    return {"column": columns.setdefault(_json(value), len(columns))}


def _is_filled_in(value: Any) -> bool:
    """Whether the browser looks into a value, for columns and for its theme's colours. It takes columns as they are."""
    return isinstance(value, dict | list | tuple) or (isinstance(value, str) and value.startswith("var(--"))


def _json(value: Any) -> str:
    return json.dumps(json_files.with_nulls(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def share(value: float, lows: Sequence[float], highs: Sequence[float]) -> float:
    """Position of a value between the lowest and the highest, in percent."""
    low, high = min(lows), max(highs)
    return round(100 * (value - low) / (high - low), 1) if high > low else 50.0


def top(history: Mapping[str, Any]) -> list[int]:
    """Indices of the trials that the table shows: the best ones, complete ones first."""
    values, states = history["values"], history["states"]
    scored = [place for place, value in enumerate(values) if value is not None]
    return sorted(scored, key=lambda place: (states[place] != TrialState.COMPLETE, -values[place]))[:SHOWN]


@cache
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters |= formats.FILTERS
    return found
