"""What is a table of data? Columns as they were read, and for each row its number in the source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from peftsweep.errors import DataError
from peftsweep.safe_text.quoting import quoted, word
from peftsweep.system.suggest import nearest

MAX_SHOWN = 5  # row numbers in a message


@dataclass(frozen=True)
class Table:
    """Columns of a file or of a hub dataset's split.

    Attributes:
        name: its name in messages.
        rows: the number of each row in the source. The first row after a header is 1.
    """

    name: str
    columns: dict[str, list[Any]]
    rows: list[int]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, kept: Iterable[int]) -> Table:
        """The rows at these positions."""
        places = list(kept)
        columns = {name: [values[i] for i in places] for name, values in self.columns.items()}
        return Table(self.name, columns, [self.rows[i] for i in places])

    def column(self, name: str) -> list[Any]:
        """Raises:
        DataError: there is no column of this name.
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
    """A unique name for each column, as in pandas: `Unnamed: 2` for a third one without, `a.1` for the second `a`."""
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
    """The positions of the wanted columns (all if `whole`).

    Raises:
        DataError: a wanted column is missing or occurs twice.
    """
    names = unique_names(header)
    if any(column not in names for column in wanted):
        raise missing_columns(name, wanted, names)
    if twice := [column for column in wanted if header.count(column) > 1]:
        raise DataError(f"{name}: two columns are called {word(twice[0])}")
    return {column: names.index(column) for column in (names if whole else wanted)}


def enumerate_names(names: Sequence[str]) -> str:
    """The names for a message, at most twenty of them."""
    more = f" and {len(names) - 20:,} more" if len(names) > 20 else ""
    return ", ".join(map(_displayed, names[:20])) + more


def _displayed(name: str) -> str:
    """The name as it is, or in quotation marks so that spaces at its ends are seen."""
    return word(name) if name == name.strip() else quoted(name)


class MissingColumnsError(DataError):
    """A file lacks columns that the study file names."""

    def __init__(self, message: str, name: str, missing: Sequence[str], there: Sequence[str]) -> None:
        super().__init__(message)
        self.name, self.missing, self.there = name, missing, there


def missing_columns(name: str, wanted: Sequence[str], there: Sequence[str]) -> MissingColumnsError:
    missing = [column for column in wanted if column not in there]
    plain = {name.strip(' "').casefold(): name for name in there}
    near = {column: nearest(column.casefold(), plain, cutoff=0.5) for column in missing}
    guesses = [f"{_displayed(plain[match])} for {_displayed(column)}" for column, match in near.items() if match]
    hint = f"; did you mean {', '.join(guesses)}?" if guesses else ""
    plural = "columns" if len(missing) > 1 else "column"
    message = f"{name}: no {plural} {enumerate_names(missing)}; it has {enumerate_names(there) or 'none'}{hint}"
    return MissingColumnsError(message, name, missing, there)
