"""Names that look like several names each, joined by a mark that is found in the names themselves."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

MOST_NAMES, MOST_MARKS, MOST_LETTERS = 1_000, 30, 200  # that are looked at
# What stands between two parts, of a name in which all letters are w and all else is -: marks, or a short word between
# marks, such as ` and ` and `<br>`.
MARKS = re.compile("(?<=w)(?=(-+)w)")
WORDS = re.compile("(?<=w)(?=(-+w{1,5}-+)w)")
RARE_IN_NAMES = (";", "|", "；")
USUAL_IN_NAMES = re.compile(r"[\s._:'’‐‑–—-]+|.*\w.*", re.DOTALL)  # these, and words between marks
NUMERIC = re.compile(r"[\s\d]*")


def find_separator(names: Sequence[str]) -> tuple[str, list[str]] | None:
    """The mark by which most of the names look joined, and the names that it joins."""
    some = names[:: math.ceil(len(names) / MOST_NAMES)]
    found = [
        (mark, parts, joined)
        for mark in _candidate_separators(some)
        for parts, joined in [_compounds(some, mark)]
        if joined
    ]
    if not found:
        return None
    mark, _, joined = max(found, key=lambda found: _fitness(*found))
    return mark, joined if len(some) == len(names) else _compounds(names, mark)[1] or joined


def _fitness(mark: str, parts: Mapping[str, Sequence[str]], joined: Sequence[str]) -> tuple[int, int, int]:
    """What joins most names, then what leaves the fewest letters of parts: `=>` rather than `=` or `>`."""
    return len(joined), -sum(map(len, {part for name in joined for part in parts[name]})), -len(mark)


def compound_names(parts: Mapping[str, Sequence[str]], names: Sequence[str], mark: str = "") -> list[str]:
    """The names that have several parts which other names have too, if they look like several labels each.

    They do if some name joins names that stand alone, or if most of all names are such. Marks that are usual in names
    prove less: `New York`, `new car` and `used car` are names. There, all that have the mark must join names that stand
    alone; or most names are such, and either most of those join names that stand alone, or many parts stand in several
    places, as in `joy fear`, `fear anger` and unlike in a tree's or a grid's names.

    Args:
        parts: the parts of each name.
        mark: what they were parted by.
    """
    known, seen = set(names), Counter(part for own in parts.values() for part in set(own))
    several = [name for name, own in parts.items() if len(own) == len(set(own)) > 1 and all(own)]
    alone = [name for name in several if known.issuperset(parts[name])]
    shared = [name for name in several if mark in RARE_IN_NAMES or all(seen[part] > 1 for part in parts[name])]
    most = 2 * len(shared) >= len(names)
    if mark and USUAL_IN_NAMES.fullmatch(mark):
        told = len(alone) == len(several) > 0 or (
            most and (2 * len(alone) >= len(several) or _parts_change_places(parts, several))
        )
    else:
        told = bool(alone) or most
    return (shared or alone) if told else []


def _compounds(names: Sequence[str], mark: str) -> tuple[dict[str, list[str]], list[str]]:
    parts = {name: [part.strip() for part in name.split(mark)] for name in names}
    if not mark.isspace() and USUAL_IN_NAMES.fullmatch(mark):  # 0-10, 1.5, 10:30
        parts = {name: [name] if all(map(NUMERIC.fullmatch, own)) else own for name, own in parts.items()}
    if mark.isspace():
        parts = {name: list(filter(None, own)) for name, own in parts.items()}
    return parts, compound_names(parts, names, mark)


def _parts_change_places(parts: Mapping[str, Sequence[str]], several: Sequence[str]) -> bool:
    places: dict[str, set[int]] = {}
    for name in several:
        for place, part in enumerate(parts[name]):
            places.setdefault(part, set()).add(place)
    return 3 * sum(len(own) > 1 for own in places.values()) >= len(places) <= len(several)


def _candidate_separators(names: Sequence[str]) -> list[str]:
    """What stands between parts, the most frequent first."""
    found: Counter[str] = Counter()
    for name in names:
        found.update(list(dict.fromkeys(_between(name[:MOST_LETTERS]))))
    return [mark for mark, _ in found.most_common(MOST_MARKS)]


def _between(name: str) -> Iterator[str]:
    shape = "".join("w" if _of_word(letter) else "-" for letter in name)
    for pattern in (MARKS, WORDS):
        for match in pattern.finditer(shape):
            mark = name[match.start(1) : match.end(1)]
            yield mark
            if pattern is MARKS:
                yield mark.strip() or mark
                yield from mark


def _of_word(letter: str) -> bool:
    """Letters, digits, what goes with them, and pictures."""
    kind = unicodedata.category(letter)
    return kind[0] in "LNM" or kind in ("So", "Cf")
