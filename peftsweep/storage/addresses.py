"""Where the studies are: what a URL says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from peftsweep import names
from peftsweep.errors import StorageError, UsageError
from peftsweep.masking import masked, remember
from peftsweep.quoting import quoted

ARTIFACTS = "artifacts"  # the one part of a URL that is ours, and not the database's
LOCAL = ("", "localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Address:
    """What a URL says.

    Attributes:
        url: for the database's driver.
        artifacts: the folder that `?artifacts=` names, if it does.
    """

    url: URL
    artifacts: Path | None

    @property
    def is_file(self) -> bool:
        return self.url.get_backend_name() == "sqlite"


def address(text: str) -> Address:
    """Read the URL of an SQLite file or a PostgreSQL database.

    Raises:
        StorageError: it is neither, or cannot be understood.
    """
    if not isinstance(text, str) or not text.isprintable():
        raise StorageError(f"storage {quoted(text)}: expected a URL, such as sqlite:///studies.db")
    remember(text)
    url = _parsed(text)
    if url is None:
        raise StorageError(
            f"storage {quoted(text)}: expected the URL of an SQLite file, such as sqlite:///studies.db, or of a "
            "PostgreSQL database, such as postgresql://user@host/studies"
        )
    if url.get_backend_name() == "postgresql":
        _check_postgresql(text, url)
    else:
        _check_file(text, str(url.database))
    folder = url.query.get(ARTIFACTS)
    if folder is not None and not isinstance(folder, str):
        raise StorageError(f"storage {quoted(text)}: expected one folder, such as {ARTIFACTS}=/data/artifacts")
    artifacts = None if folder is None else names.path(folder, f"storage: {ARTIFACTS}", StorageError)
    return Address(url.difference_update_query([ARTIFACTS]), artifacts)


def _parsed(text: str) -> URL | None:
    try:
        text.encode()
        url = make_url(text)
    except (ArgumentError, ValueError):  # the latter: bytes that are no UTF-8, a port that is no number
        return None
    if url.drivername == "postgres":  # as several hosts of databases write it
        url = url.set(drivername="postgresql")
    if url.get_backend_name() == "sqlite":
        return url if url.database not in (None, "", ":memory:") and "\0" not in text else None
    return url if url.get_backend_name() == "postgresql" else None


def _check_file(text: str, file: str) -> None:
    """Raises:
    StorageError: no file can have this name, or others cannot stand beside it: locks, and the artifacts' folder.
    """
    if why := names.refusal(names.possible(Path(file), "storage", StorageError).name):
        raise StorageError(f"storage {quoted(masked(text))}: the file's name {why}")


def _check_postgresql(text: str, url: URL) -> None:
    # one in ?artifacts=/data/me@home is no harm
    parts = (url.host or "", url.database or "", text.partition("?")[2].partition("=")[0])
    if text.count("@") > 1 and any("@" in part for part in parts):
        raise StorageError(
            f"storage {quoted(text)}: more than one @; in a password write %40 for @, %2F for /, %3F for ?, "
            "or leave the password to PGPASSWORD or ~/.pgpass"
        )
    if not url.database:
        raise StorageError(f"storage {quoted(text)}: names no database: postgresql://user@host/studies")
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise StorageError(f"storage {quoted(text)}: the driver is psycopg: write postgresql:// and nothing more")


def lasting(text: str) -> str:
    """The URL as it can be kept: without a password, and not by the working folder."""
    url = address(text).url
    if url.get_backend_name() == "sqlite":
        url = url.set(database=os.path.realpath(str(url.database)))
    return masked(url.render_as_string())


def same_place(a: str, b: str) -> bool:
    """Whether two URLs name one SQLite file or one PostgreSQL database, as far as URLs can tell."""
    first, second = _place(a), _place(b)
    return first is not None and first == second


def alike(a: str, b: str) -> bool:
    """The same, but for the name of a PostgreSQL server, of which there may be several: one from within a container,
    another from without."""
    first, second = _place(a), _place(b)
    return first is not None and second is not None and first[-2:] == second[-2:]


def _place(text: str) -> tuple[object, ...] | None:
    url = _parsed(text)
    if url is None:
        return None
    if url.get_backend_name() == "sqlite":
        return _file(str(url.database))
    host = str(url.host or url.query.get("host") or "").lower()
    if host in LOCAL or host.startswith("/"):  # a folder of sockets
        host = "localhost"
    port = str(url.port or url.query.get("port") or 5432)
    user = url.username or url.query.get("user")
    return (
        host,
        port,
        url.database or url.query.get("dbname") or user,
        url.query.get("options"),
    )  # the last: a schema of its own in the same database


def _file(path: str) -> tuple[object, ...]:
    """What tells a file from others, by whatever name."""
    try:
        state = Path(path).stat()
    except OSError:
        return (os.path.realpath(path),)
    return state.st_dev, state.st_ino


def check_apart(url: str, tracking_uri: str) -> None:
    """Raises:
    UsageError: MLflow would make its tables among the studies', which nobody could read any more.
    """
    if same_place(url, tracking_uri):
        kind = "file" if address(url).is_file else "database"
        raise UsageError(
            f"storage and tracking_uri are one {kind}, {masked(url)}: Optuna and MLflow need one each, such as "
            "sqlite:///studies.db and sqlite:///mlflow.db"
        )
