"""Read data files in tests, and collect their warnings and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftsweep import data
from peftsweep.errors import DataError

TEXTS = ["it’s “so” good", "10 € – not", "naïve", "plain"]
ENDINGS = (".csv", ".tsv", ".jsonl")


def read(path: Path, *wanted: str, whole: bool = False, **form: Any) -> tuple[data.Table, list[str]]:
    """The table, and the warnings about it."""
    said: list[str] = []
    return data.read_table(str(path), "data.train", wanted, data.TextFormat(**form), said.append, whole=whole), said


def refused(path: Path, *wanted: str, **form: Any) -> str:
    with pytest.raises(DataError) as error:
        read(path, *wanted, **form)
    assert "\n" not in str(error.value)
    return str(error.value)


def written(ending: str, texts: list[str]) -> str:
    """The content of a file with the columns `text` and `mood`."""
    if ending == ".jsonl":
        return "".join(f'{{"text": "{text}", "mood": "m"}}\n' for text in texts)
    mark = "\t" if ending == ".tsv" else ","
    return "".join(f"{line}\n" for line in [f"text{mark}mood", *(f"{text}{mark}m" for text in texts)])


def works_or_gives_one_error(act: Callable[[], object]) -> None:
    """Check that `act` works, or fails with a one-line message that names the file."""
    message = "of a."
    try:
        act()
    except DataError as error:
        message = str(error)
    assert "a." in message and "\n" not in message and len(message) < 2000
