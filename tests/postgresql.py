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

PASSWORD = "s3/c@r?e:t '%"  # all that must be escaped in a URL or a statement
USER = "sweeper"


@cache
def programs() -> Path | None:
    """The folder of `initdb` and `postgres`: the newest of Debian's, which are not in PATH."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    on_path = shutil.which("initdb")
    return max(
        found, key=lambda path: int(path.parent.name), default=Path(on_path).resolve().parent if on_path else None
    )


def needed() -> Path:
    """The same; without it the test is `lacking`."""
    return programs() or lacking("PostgreSQL's own programs", "apt-get install postgresql")


@dataclass(frozen=True)
class Server:
    """A server and its superuser `postgres`.

    Args:
        folder: its database cluster.
    """

    folder: Path
    port: int
    password: str

    def url(self, database: str, *, user: str = USER, password: str = PASSWORD, scheme: str = "postgresql") -> str:
        return f"{scheme}://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str | sql.Composed, database: str = "postgres") -> list[tuple[Any, ...]]:
        """By the superuser."""
        keys = {"host": "127.0.0.1", "port": self.port, "user": "postgres", "password": self.password}
        with psycopg.connect(dbname=database, autocommit=True, **keys) as connection:
            answer = connection.execute(statement)
            return answer.fetchall() if answer.description else []

    def database(self) -> str:
        """The URL of a new, empty database, which belongs to `sweeper`."""
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
    """A program by the server's own account, for the server's refuse to be root's.

    Args:
        given: to the program's standard input.
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
    """A server with nothing in it but `postgres`, which asks everybody for a password; gone afterwards.

    Not in pytest's own folder: the server's account may not enter that.
    """
    needed()
    folder = Path(tempfile.mkdtemp(prefix="peftsweep-postgresql-"))
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
