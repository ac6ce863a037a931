"""Which names of classes look like a mistake in the data, although they can be trained on?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from peftsweep.data.joined_labels import compound_names, find_separator
from peftsweep.data.label_spelling import DIFFERENCE, distinguishable, visible_form
from peftsweep.data.list_cells import bracket_halves, is_surely_list, label_names, list_fragments, parse_list
from peftsweep.safe_text.quoting import quoted
from peftsweep.task import Task

MISSING = ("nan", "null", "none", "n/a", "na", "<na>", "nat", "nil", "(null)", "\\n", "undefined", "?")
EXCEL = ("#n/a", "#na", "#value!", "#ref!", "#name?", "#div/0!", "#null!", "#num!")
MAX_SHOWN = 3  # groups of classes that look alike
MANY_FRACTIONS = 20  # more fractional numbers than grades or versions have
FRACTION = re.compile(r"-?\d+\.\d+(e-\d+)?")


def label_warnings(task: Task, column: str) -> Iterator[str]:
    """Warnings about the classes of one column.

    Args:
        column: the column of classes, or of all labels.
    """
    missing = [label for label in task.labels if label.lower() in (*MISSING, *EXCEL)]
    if missing:
        what = "class" if task.kind == "single-label" else "label"
        yield f"the {what} {', '.join(missing)} looks like a missing label; if it is, remove its rows"
    if column in task.labels:
        yield f"{quoted(column)} is also a class; if the header is repeated in the file, remove that row"
    if warning := _warn_of_lookalikes(task.labels):
        yield warning
    if len(fractions := [label for label in task.labels if FRACTION.fullmatch(label)]) > MANY_FRACTIONS:
        yield (
            f"{len(fractions):,} classes are numbers such as {quoted(fractions[0])}; if it is a measurement, divide it "
            "into a few ranges"
        )
    yield from warn_of_joined_labels(task, column)


def _warn_of_lookalikes(names: Sequence[str]) -> str | None:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(visible_form(name), []).append(name)
    groups = [own for own in found.values() if len(own) > 1]
    if not groups:
        return None
    shown = ", ".join(distinguishable(own) for own in groups[:MAX_SHOWN])
    more = f" and {len(groups) - MAX_SHOWN:,} more" if len(groups) > MAX_SHOWN else ""
    return f"{shown}{more} are separate classes that differ only by {DIFFERENCE}"


def warn_of_joined_labels(task: Task, column: str) -> Iterator[str]:
    """A warning if the names look like several labels each, or like fragments of lists."""
    names = task.labels
    lists = {
        name: entries for name in names if (entries := label_names(parse_list(name) or [])) is not None and entries
    }
    if not any(len(entries) > 1 or is_surely_list(name) for name, entries in lists.items()):
        lists = {}  # (internal), [deleted]: names in brackets
    if 2 * len(lists) >= len(names) or compound_names({name: lists.get(name, [name]) for name in names}, names):
        yield _advice(task, "lists of labels", list(lists), {"column": column})
    elif 2 * len(broken := list_fragments(names)) >= len(names) or (
        task.multi_label and (broken := bracket_halves(names))
    ):
        yield f"{_count(task, broken)} look like fragments of lists, such as {quoted(broken[0])}; {_list_hint(column)}"
    elif (found := find_separator(names)) is not None:
        separator, those = found
        yield _advice(task, f"labels joined by {separator!r}", those, {"column": column, "separator": separator})


def _list_hint(column: str) -> str:
    return f"lists in cells are read without a separator: {in_yaml({'labels': {'column': column}})}"


def _advice(task: Task, what: str, found: Sequence[str], labels: dict[str, str]) -> str:
    hint = f"if each text may have several labels: {in_yaml({'labels': labels})}"
    if task.multi_label:
        hint = "if they are, the labels are separated differently than assumed"
        hint += "; see data.labels" if "separator" in labels else f": {_list_hint(labels['column'])}"
    return f"{_count(task, found)} look like {what}, such as {quoted(found[0])}; {hint}"


def in_yaml(keys: dict[str, Any]) -> str:
    """The keys on one line, as they may be written in a study file."""
    return yaml.safe_dump(keys, default_flow_style=None, allow_unicode=True, width=1000).strip()


def _count(task: Task, found: Sequence[str]) -> str:
    what = "labels" if task.multi_label else "classes"
    return f"all {what}" if len(found) == len(task.labels) else f"{len(found):,} of {len(task.labels):,} {what}"
