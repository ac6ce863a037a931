"""What a storage's URL says, and whether two URLs name the same place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from peftsweep.errors import StorageError, UsageError
from peftsweep.safe_text.quoting import quoted
from peftsweep.safe_text.secrets import masked, remember
from peftsweep.system import names

ARTIFACTS = "artifacts"  # the only part of a URL that the database's driver does not get
# Connection settings that are integers, and the largest that libpq accepts.
NUMBERS = ("connect_timeout", "tcp_user_timeout", *(f"keepalives{end}" for end in ("", "_idle", "_interval", "_count")))
LARGEST = 2**31 - 1
LOCAL = ("", "localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Address:
    """What a URL says.

    Attributes:
        url: for the database's driver.
        artifacts: the folder in `?artifacts=`, if given.
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
        _check_file(text, url)
    folder = url.query.get(ARTIFACTS)
    artifacts = None if folder is None else names.parse_path(str(folder), f"storage: {ARTIFACTS}", StorageError)
    return Address(url.difference_update_query([ARTIFACTS]), artifacts)


def _keys(text: str, url: URL) -> list[str]:
    """Names of the settings behind the ? of a URL.

    Raises:
        StorageError: one is given twice, or without a value: the driver would take either, or neither.
    """
    rest = text.partition("://")[2]
    query = (rest if url.username is None else rest.partition("@")[2]).partition("?")[2]
    pairs = parse_qsl(query, keep_blank_values=True)
    keys = [key for key, _ in pairs]
    for key, value in pairs:
        if not key or not value:
            lacking = f"{quoted(key)} has no value" if key else f"{quoted(value)} has no name"
            raise StorageError(f"storage {quoted(text)}: {lacking}; write NAME=VALUE, or leave it out")
        if keys.count(key) > 1:
            once = "write all in one, as host=a,b&port=5432,5433" if key in ("host", "port") else "write it once"
            raise StorageError(f"storage {quoted(text)}: {quoted(key)} stands there {keys.count(key)} times; {once}")
    return keys


def _parsed(text: str) -> URL | None:
    try:
        text.encode()
        url = make_url(text)
    except (ArgumentError, ValueError):  # ValueError: bytes that are not UTF-8, or a port that is not a number
        return None
    if url.drivername == "postgres":  # some database hosts write it this way
        url = url.set(drivername="postgresql")
    if url.get_backend_name() == "sqlite":
        return url if url.database not in (None, "", ":memory:") and "\0" not in text else None
    return url if url.get_backend_name() == "postgresql" else None


def _check_file(text: str, url: URL) -> None:
    """Raises:
    StorageError: no file can have this name; locks and the folder of artifacts cannot be beside it; or the URL has
        settings that a file does not.
    """
    said = f"storage {quoted(text)}"
    if url.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise StorageError(f"{said}: the driver is Python's own: write sqlite:/// and nothing more")
    if any((url.username, url.password, url.host, url.port)):
        raise StorageError(
            f"{said}: an SQLite file is on no host: write three slashes and its name, or four for an absolute path"
        )
    if others := [key for key in _keys(text, url) if key != ARTIFACTS]:
        raise StorageError(
            f"{said}: {quoted(others[0])} is none of an SQLite file's settings; all that may follow it is "
            f"?{ARTIFACTS}=FOLDER"
        )
    if why := names.refusal(names.check_path(Path(str(url.database)), "storage", StorageError).name):
        raise StorageError(f"{said}: the file's name {why}")


def _check_postgresql(text: str, url: URL) -> None:
    said = f"storage {quoted(text)}"
    # an @ in ?artifacts=/data/me@home does no harm
    parts = (url.host or "", url.database or "", text.partition("?")[2].partition("=")[0])
    if text.count("@") > 1 and any("@" in part for part in parts):
        raise StorageError(
            f"{said}: more than one @; in a password write %40 for @, %2F for /, %3F for ?, "
            "or leave the password to PGPASSWORD or ~/.pgpass"
        )
    _keys(text, url)
    if not url.database:
        raise StorageError(f"{said}: names no database: postgresql://user@host/studies")
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise StorageError(f"{said}: the driver is psycopg: write postgresql:// and nothing more")
    ports = [] if url.port is None else [str(url.port)]
    ports += [port for port in str(url.query.get("port", "")).split(",") if port]
    if wrong := [port for port in ports if not _is_number(port, 1, 65535)]:
        raise StorageError(f"{said}: port {quoted(wrong[0])}: expected a whole number of 1 to 65535, such as 5432")
    for key in NUMBERS:
        number = str(url.query.get(key, "0"))
        if not _is_number(number.removeprefix("-"), 0, LARGEST):  # negative: libpq waits forever
            raise StorageError(f"{said}: {key}: expected a whole number, got {quoted(url.query[key])}")
    # libpq also takes folders of sockets, and abstract sockets
    hosts = [url.host or "", *str(url.query.get("host", "")).split(",")]
    if wrong := [host for host in hosts if not host.startswith(("/", "@")) and names.host_refusal(host)]:
        raise StorageError(f"{said}: host {quoted(wrong[0])} {names.host_refusal(wrong[0])}")


def _is_number(text: str, low: int, high: int) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= len(str(high)) and low <= int(text) <= high


def lasting(text: str) -> str:
    """The URL as it may be stored: without a password, and independent of the working folder."""
    url = address(text).url
    if url.get_backend_name() == "sqlite":
        url = url.set(database=os.path.realpath(str(url.database)))
    return masked(url.render_as_string())


def same_place(a: str, b: str) -> bool:
    """Whether two URLs name one SQLite file or one PostgreSQL database, as far as URLs can tell."""
    first, second = _place(a), _place(b)
    return first is not None and first == second


def alike(a: str, b: str) -> bool:
    """The same, ignoring the name of a PostgreSQL server: it may have one inside a container and another outside."""
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
    options = url.query.get("options")  # they may name another schema in the same database
    return host, port, url.database or url.query.get("dbname") or user, options


def _file(path: str) -> tuple[object, ...]:
    """Identifies a file, whatever name it is reached under."""
    try:
        state = Path(path).stat()
    except OSError:
        return (os.path.realpath(path),)
    return state.st_dev, state.st_ino


def check_apart(url: str, tracking_uri: str) -> None:
    """Raises:
    UsageError: they are the same place. The tracker would create its tables there, and nobody could read the studies.
    """
    if isinstance(tracking_uri, str) and same_place(url, tracking_uri):  # otherwise the sink refuses it
        kind = "file" if address(url).is_file else "database"
        raise UsageError(
            f"storage and tracking_uri are one {kind}, {masked(url)}: the studies and the tracker need one each, such "
            "as sqlite:///studies.db and sqlite:///mlflow.db"
        )
