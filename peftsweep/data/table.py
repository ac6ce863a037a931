"""Rows as they were read, column by column, with the numbers by which a person finds them again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from peftsweep.errors import DataError
from peftsweep.safe_text.quoting import quoted, word
from peftsweep.system.suggest import nearest

MAX_SHOWN = 5  # row numbers that a message lists


@dataclass(frozen=True)
class Table:
    """Columns of a file or of a hub dataset's split.

    Attributes:
        name: what messages call it.
        rows: each row's number in the source; the first one after a header is 1.
    """

    name: str
    columns: dict[str, list[Any]]
    rows: list[int]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, kept: Iterable[int]) -> Table:
        """The rows at these places."""
        places = list(kept)
        columns = {name: [values[i] for i in places] for name, values in self.columns.items()}
        return Table(self.name, columns, [self.rows[i] for i in places])

    def column(self, name: str) -> list[Any]:
        """Raises:
        DataError: there is none of this name.
        """
        if name not in self.columns:
            raise missing_columns(self.name, [name], list(self.columns))
        return self.columns[name]

    def numbers(self, places: Sequence[int]) -> str:
        """`row 7` or `rows 7, 12, 13, 20, 21 and 5 more`."""
        shown = ", ".join(str(self.rows[i]) for i in places[:MAX_SHOWN])
        more = f" and {len(places) - MAX_SHOWN} more" if len(places) > MAX_SHOWN else ""
        return f"row{'s' if len(places) > 1 else ''} {shown}{more}"


def unique_names(header: Sequence[str]) -> list[str]:
    """A name of its own for each column, as pandas gives them: `Unnamed: 2` for the third if it has none, `a.1` for the
    second `a`."""
    found: dict[str, None] = {}
    given = set(header)
    for place, name in enumerate(header):
        own, again = name or f"Unnamed: {place}", 0
        while own in found or (own != name and own in given):
            again += 1
            own = f"{name or f'Unnamed: {place}'}.{again}"
        found[own] = None
    return list(found)


def column_positions(name: str, wanted: Sequence[str], header: Sequence[str], whole: bool) -> dict[str, int]:
    """Where the wanted columns are, or (whole) all of them.

    Raises:
        DataError: there is none of a wanted name, or there are two.
    """
    names = unique_names(header)
    if any(column not in names for column in wanted):
        raise missing_columns(name, wanted, names)
    if twice := [column for column in wanted if header.count(column) > 1]:
        raise DataError(f"{name}: two columns are called {word(twice[0])}")
    return {column: names.index(column) for column in (names if whole else wanted)}


def enumerate_names(names: Sequence[str]) -> str:
    """Names in a message, at most twenty of them."""
    more = f" and {len(names) - 20:,} more" if len(names) > 20 else ""
    return ", ".join(map(_shown, names[:20])) + more


def _shown(name: str) -> str:
    """As it is, unless spaces at its ends would be overlooked."""
    return word(name) if name == name.strip() else quoted(name)


class MissingColumnsError(DataError):
    """A file lacks columns that the study file names."""

    def __init__(self, message: str, name: str, absent: Sequence[str], there: Sequence[str]) -> None:
        super().__init__(message)
        self.name, self.absent, self.there = name, absent, there


def missing_columns(name: str, wanted: Sequence[str], there: Sequence[str]) -> MissingColumnsError:
    absent = [column for column in wanted if column not in there]
    plain = {name.strip(' "').casefold(): name for name in there}
    near = {column: nearest(column.casefold(), plain, cutoff=0.5) for column in absent}
    guesses = [f"{_shown(plain[match])} for {_shown(column)}" for column, match in near.items() if match]
    hint = f"; did you mean {', '.join(guesses)}?" if guesses else ""
    plural = "columns" if len(absent) > 1 else "column"
    message = f"{name}: no {plural} {enumerate_names(absent)}; it has {enumerate_names(there) or 'none'}{hint}"
    return MissingColumnsError(message, name, absent, there)
