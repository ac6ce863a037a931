"""A real PostgreSQL server, from Debian's package `postgresql`, on a free port of 127.0.0.1."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import psycopg
from psycopg import sql

from tests.programs import free_port, lacking

PASSWORD = "s3/c@r?e:t '%"  # with every character that must be escaped in a URL or a statement
USER = "sweeper"


@cache
def programs() -> Path | None:
    """The folder of `initdb` and `postgres`: of Debian's, which are not in PATH, the newest."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    on_path = shutil.which("initdb")
    return max(
        found, key=lambda path: int(path.parent.name), default=Path(on_path).resolve().parent if on_path else None
    )


def needed() -> Path:
    """The same folder; if there is none, the test is `lacking`."""
    return programs() or lacking("PostgreSQL's own programs", "apt-get install postgresql")


@dataclass(frozen=True)
class Server:
    """A server and its superuser `postgres`.

    Args:
        folder: holds the database cluster.
    """

    folder: Path
    port: int
    password: str

    def url(self, database: str, *, user: str = USER, password: str = PASSWORD, scheme: str = "postgresql") -> str:
        return f"{scheme}://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str | sql.Composed, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Execute a statement as the superuser; returns the rows."""
        keys = {"host": "127.0.0.1", "port": self.port, "user": "postgres", "password": self.password}
        with psycopg.connect(dbname=database, autocommit=True, **keys) as connection:
            answer = connection.execute(statement)
            return answer.fetchall() if answer.description else []

    def database(self) -> str:
        """The URL of a new, empty database owned by `sweeper`."""
        name = f"d{uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} OWNER {USER}")
        return self.url(name)

    def start(self) -> None:
        self._control(
            "start", "--options", f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self.folder}"
        )

    def stop(self) -> None:
        self._control("stop", "--mode", "immediate")

    @contextmanager
    def down(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self.start()

    def _control(self, *words: str) -> None:
        log = str(self.folder / "log")
        run(str(needed() / "pg_ctl"), "--pgdata", str(self.folder), "--log", log, "--wait", *words, cwd=self.folder)


def run(program: str, *words: str, cwd: Path, env: Mapping[str, str] | None = None, given: str = "") -> None:
    """Run a program under the server's own account, because PostgreSQL's programs refuse to run as root.

    Args:
        given: the program's standard input.
    """
    account: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    done = subprocess.run(
        [program, *words],
        cwd=cwd,
        env=dict(env or os.environ),
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        **account,
    )
    assert done.returncode == 0, done.stdout


@contextmanager
def served(password: str = "superuser") -> Iterator[Server]:
    """Start an empty server whose only role is `postgres` and which asks for a password; remove it afterwards.

    Its folder is not inside pytest's, which the server's account may not enter. It is in memory where pytest's is.
    """
    needed()
    memory = "/dev/shm" if os.environ.get("PYTEST_DEBUG_TEMPROOT") == "/dev/shm" else None
    folder = Path(tempfile.mkdtemp(prefix="peftsweep-postgresql-", dir=memory))
    server = Server(folder / "cluster", free_port(), password)
    try:
        (folder / "password").write_text(password)
        if os.getuid() == 0:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres", "postgres")
        whose = ("--username", "postgres", "--pwfile", str(folder / "password"), "--auth", "scram-sha-256")
        kind = ("--encoding", "UTF8", "--locale", "C", "--no-sync")
        run(str(needed() / "initdb"), "--pgdata", str(server.folder), *whose, *kind, cwd=folder)
        server.start()
        yield server
    finally:
        if (server.folder / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder)
