"""Where are MLflow's runs and artifacts, and can this be their address?"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from peftsweep.errors import UsageError
from peftsweep.safe_text.quoting import quoted
from peftsweep.safe_text.secrets import remember
from peftsweep.system.names import check_path, host_refusal

NOWHERE = "its host or its port cannot be read"
CODES = f"{NOWHERE}; in a password write %40 for @, %2F for /, %3F for ?, %23 for #"
LONGEST = 4000  # most characters of an address
SERVERS = ("http", "https")
DATABASES = {"postgresql": 5432, "postgres": 5432, "mysql": 3306, "mssql": 1433}  # default port of each
STORES_OF_FILES = ("ftp", "sftp", "s3", "gs", "hdfs", "dbfs", "wasb", "wasbs", "abfs", "abfss", "r2")
BY_NAME = ("databricks", "databricks-uc", "uc", "arn")  # addresses of MLflow and a plugin without //


def check(uri: object) -> None:
    """Refuse what cannot be an address of MLflow, before anything else is done.

    Raises:
        UsageError: it is not text, names no file or host, or has an impossible port.
    """
    if isinstance(uri, str):
        remember(uri)
    if why := _refusal(uri):
        raise UsageError(
            f"--tracking-uri {quoted(uri)}: {why}; expected an SQLite file, such as sqlite:///mlflow.db, or an MLflow "
            "server, such as http://127.0.0.1:5000"
        )


def _refusal(uri: object) -> str | None:
    """Why this is not an address, in a few words; None if it may be one."""
    if not isinstance(uri, str) or not uri.strip():
        return "is not an address"
    file = sqlite_file(uri)
    if not uri.isprintable() or uri != uri.strip():
        return "has characters that no address has"
    if len(uri) > LONGEST:
        return f"is longer than {LONGEST:,} characters"
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:  # an unclosed bracket, a port that is not a number
        return CODES if re.match(r"[^@\[]*:[^@\[]*[/?#][^@]*@", uri.partition("://")[2]) else NOWHERE
    kind = parts.scheme.partition("+")[0]
    if kind == "sqlite":
        if file is None or not file.name:
            return "names no file"
        try:  # a folder in its place is a temporary problem, like a server that is down
            plain = file.is_file() or file.is_dir() or not file.exists()
        except OSError:  # the folder cannot be read; a tracker that cannot be reached stops no sweep
            plain = True
        return None if plain else "is a device, a pipe or a socket"
    if kind in SERVERS or kind in DATABASES:
        if "@" in parts.netloc and "@" in parts.path:
            return CODES
        return _no_host(parts, port, needed=kind in SERVERS)
    if kind in STORES_OF_FILES:
        return "is a file store: MLflow can keep artifacts there, but not runs"
    if parts.scheme in BY_NAME or uri in BY_NAME:
        return None
    if kind == "file" or not parts.scheme or "//" not in uri:
        return "is not an address of a server or a database"
    return None


def _no_host(parts: SplitResult, port: int | None, *, needed: bool) -> str | None:
    host = parts.hostname or ""
    if needed and not host:
        return "names no host"
    if port == 0:
        return "there is no port 0"
    why = host_refusal(parts.netloc.rpartition("@")[2] if " " in parts.netloc else host)
    return why and f"its host {why}"


def sqlite_file(uri: str) -> Path | None:
    """The absolute path of an SQLite URL's file; None for any other URI."""
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", uri)
    if match is None or match[1] == ":memory:":
        return None
    return check_path(Path(match[1]).absolute(), "--tracking-uri", UsageError)


def database_host(uri: str) -> tuple[str | None, int] | None:
    """Host and port of a database's URI (no host: this machine's sockets); None for any other URI."""
    parts = urlsplit(uri)
    port = DATABASES.get(parts.scheme.partition("+")[0])
    return None if port is None else (parts.hostname, parts.port or port)


def table_names(file: Path) -> set[str]:
    """Names of the tables in an SQLite file.

    Raises:
        sqlite3.Error: the file cannot be opened, or is not an SQLite database.
    """
    with contextlib.closing(sqlite3.connect(file)) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def absolute(uri: str) -> str:
    file = sqlite_file(uri)
    return uri if file is None else f"sqlite:///{file}{uri[uri.index('?') :] if '?' in uri else ''}"


def artifact_root(uri: str) -> Path:
    """The folder of a store's artifacts: beside an SQLite file, else in the working folder. It is never `./mlruns`,
    which would change MLflow's default back to a file store."""
    file = sqlite_file(uri)
    return (Path.cwd() if file is None else file.parent) / "mlartifacts"


def is_server(uri: str) -> bool:
    return uri.lower().startswith(("http://", "https://"))
