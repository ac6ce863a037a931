"""What looks wrong about the names of classes, though they can be trained on."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

import yaml

from peftsweep.data.spelling import listed
from peftsweep.quoting import quoted
from peftsweep.task import Task

MISSING = ("nan", "null", "none", "n/a", "na", "<na>")
SEPARATORS = (";", "|", ",", "/", "\t", "\n", "&", "+", "#")
RARE_IN_NAMES = (";", "|")
MANY = 20  # numbers with fractions: more than grades or versions have
FRACTION = re.compile(r"-?\d+\.\d+(e-\d+)?")


def doubts(task: Task, column: str) -> Iterator[str]:
    """Sentences about the classes of one column.

    Args:
        column: the one of classes, or of all labels.
    """
    missing = [label for label in task.labels if label.lower() in MISSING]
    if missing:
        what = "class" if task.kind == "single-label" else "label"
        yield f"the {what} {', '.join(missing)} looks like a missing label; if it is, remove its rows"
    alike: dict[str, list[str]] = {}
    for label in task.labels:
        alike.setdefault(_seen(label), []).append(label)
    for names in alike.values():
        if len(names) > 1:
            shown = " and ".join(map(quoted, names))
            if len({unicodedata.normalize("NFC", name) for name in names}) < len(names):
                shown = shown.encode("ascii", "backslashreplace").decode()  # else they would look the same here, too
            yield f"{shown} are classes of their own, and differ by case, spaces or characters that look alike"
    if len(fractions := [label for label in task.labels if FRACTION.fullmatch(label)]) > MANY:
        yield (
            f"{len(fractions):,} classes are numbers such as {quoted(fractions[0])}; if it is a measure, cut it into a "
            "few ranges"
        )
    if task.kind == "single-label":
        yield from _joined(task.labels, column)


def _seen(name: str) -> str:
    """The name without what a person hardly sees: case, spaces, how letters are encoded, characters of no width."""
    letters = unicodedata.normalize("NFKC", name).casefold()
    return " ".join("".join(letter for letter in letters if unicodedata.category(letter) != "Cf").split())


def _joined(classes: Sequence[str], column: str) -> Iterator[str]:
    """Whether the classes look like several labels each."""
    lists = [name for name in classes if name[:1] == "[" and listed(name) is not None]
    if 2 * len(lists) >= len(classes):
        yield _advice("lists of labels", lists, classes, {"column": column})
        return
    for separator in SEPARATORS:
        joins = _joins(classes, separator)
        if joins:
            yield _advice(f"labels joined by {separator!r}", joins, classes, {"column": column, "separator": separator})
            return


def _joins(classes: Sequence[str], separator: str) -> list[str]:
    """The classes that look like others joined by the separator: some class joins classes that stand alone, or most
    are made of parts that others have too (a mark that names rarely have need not part the same twice)."""
    parts = {name: [part.strip() for part in name.split(separator)] for name in classes}
    known, seen = set(classes), Counter(part for own in parts.values() for part in set(own))
    several = [name for name, own in parts.items() if len(own) > 1 and all(own)]
    alone = [name for name in several if known.issuperset(parts[name])]
    shared = [name for name in several if separator in RARE_IN_NAMES or all(seen[part] > 1 for part in parts[name])]
    return shared or alone if alone or 2 * len(shared) >= len(classes) else []


def _advice(what: str, found: Sequence[str], classes: Sequence[str], labels: dict[str, str]) -> str:
    key = yaml.safe_dump({"labels": labels}, default_flow_style=None, allow_unicode=True, width=1000).strip()
    count = "all" if len(found) == len(classes) else f"{len(found):,} of {len(classes):,}"
    return f"{count} classes look like {what}, such as {quoted(found[0])}; if each text may have several labels: {key}"
