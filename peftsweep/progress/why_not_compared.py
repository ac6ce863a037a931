"""Why are studies that look alike not compared?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftsweep.safe_text.quoting import word

if TYPE_CHECKING:
    from peftsweep.study.best_rows import Best

SHOWN = 3  # most labels in a line


def why_not_compared(rows: Sequence[Best]) -> list[str]:
    """A line for each study that has the same data name or the same labels as the first, but other validation rows.

    Args:
        rows: of `best_rows.best`, one for each group of studies on the same validation rows.
    """
    return [
        f"{row.study} is not compared with {rows[0].study}: {_why(row, rows[0])}"
        for row in rows[1:]
        if _source(row) == _source(rows[0]) or set(row.labels) == set(rows[0].labels)
    ]


def _source(row: Best) -> str:
    """The source in a data name: `tweets` in `tweets · single-label · 3fa2bc`."""
    return str(row.data or "").partition(" · ")[0]


def _why(row: Best, first: Best) -> str:
    if row.labels == first.labels:
        return "other validation rows (another file, filter, split or seed of the split)"
    if set(row.labels) == set(first.labels):
        return "the same labels in another order; list data.labels in the same order"
    only = [_only(row, first), _only(first, row)]
    return f"other labels ({', '.join(filter(None, only))})"


def _only(one: Best, other: Best) -> str:
    found = [word(label) for label in one.labels if label not in set(other.labels)]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"only {one.study} has {', '.join(found[:SHOWN])}{more}" if found else ""
