"""Where MLflow's runs and artifacts are."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

from peftsweep.errors import UsageError
from peftsweep.names import possible


def sqlite_file(uri: str) -> Path | None:
    """The absolute path of an SQLite URL's file; None for any other URI."""
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", uri)
    if match is None or match[1] == ":memory:":
        return None
    return possible(Path(match[1]).absolute(), "--tracking-uri", UsageError)


def look_into(file: Path) -> set[str]:
    """The tables of an SQLite file. Raises sqlite3.Error if it cannot be opened, or is something else."""
    with contextlib.closing(sqlite3.connect(file)) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def absolute(uri: str) -> str:
    file = sqlite_file(uri)
    return uri if file is None else f"sqlite:///{file}{uri[uri.index('?') :] if '?' in uri else ''}"


def artifact_root(uri: str) -> Path:
    """The folder of a store's artifacts: beside an SQLite file, else in the working folder. Never `./mlruns`: it would
    turn MLflow's default back to a store of files."""
    file = sqlite_file(uri)
    return (Path.cwd() if file is None else file.parent) / "mlartifacts"


def is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))
