"""Do the names of labels look like several names joined by a separator, and by which?"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

MAX_NAMES, MAX_MARKS, MAX_LETTERS = 1_000, 30, 200  # that are examined
# Separators in the shape of a name (w for each letter, - for anything else): marks, or a short word between marks, such
# as ` and ` or `<br>`.
MARKS = re.compile("(?<=w)(?=(-+)w)")
WORDS = re.compile("(?<=w)(?=(-+w{1,5}-+)w)")
RARE_IN_NAMES = (";", "|", "；")
USUAL_IN_NAMES = re.compile(r"[\s._:'’‐‑–—-]+|.*\w.*", re.DOTALL)  # these marks, and words between marks
NUMERIC = re.compile(r"[\s\d]*")


def find_separator(names: Sequence[str]) -> tuple[str, list[str]] | None:
    """The separator that seems to join most of the names, and the names that it joins; None if there is none."""
    some = names[:: math.ceil(len(names) / MAX_NAMES)]
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
    """Prefers the separator that joins most names, then the one with the shortest parts: `=>` over `=` and `>`."""
    return len(joined), -sum(map(len, {part for name in joined for part in parts[name]})), -len(mark)


def compound_names(parts: Mapping[str, Sequence[str]], names: Sequence[str], mark: str = "") -> list[str]:
    """The names whose parts occur in other names too, if they look like several labels each; else none.

    They do if a name joins other complete names, or if most names are of this kind. A mark that is usual in names is
    weaker evidence: `New York`, `new car` and `used car` are single names. With such a mark, either every name that has
    it must join complete names; or most names are of this kind, and most of them join complete names or many parts
    occur at several positions, as in `joy fear` and `fear anger` but not in the names of a tree or a grid.

    Args:
        parts: the parts of each name.
        mark: the separator between the parts.
    """
    known, seen = set(names), Counter(part for own in parts.values() for part in set(own))
    several = [name for name, own in parts.items() if len(own) == len(set(own)) > 1 and all(own)]
    alone = [name for name in several if known.issuperset(parts[name])]
    shared = [name for name in several if mark in RARE_IN_NAMES or all(seen[part] > 1 for part in parts[name])]
    most = 2 * len(shared) >= len(names)
    if mark and USUAL_IN_NAMES.fullmatch(mark):
        found = len(alone) == len(several) > 0 or (
            most and (2 * len(alone) >= len(several) or _parts_change_places(parts, several))
        )
    else:
        found = bool(alone) or most
    return (shared or alone) if found else []


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
    """Candidates for the separator, the most frequent first."""
    found: Counter[str] = Counter()
    for name in names:
        found.update(list(dict.fromkeys(_between(name[:MAX_LETTERS]))))
    return [mark for mark, _ in found.most_common(MAX_MARKS)]


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
    """Whether it is a letter, a digit, a combining mark or a pictograph."""
    kind = unicodedata.category(letter)
    return kind[0] in "LNM" or kind in ("So", "Cf")
