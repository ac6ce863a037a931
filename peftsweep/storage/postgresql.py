"""How studies live in a PostgreSQL database: connections, and leases by advisory locks."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from peftsweep.errors import StorageError, StudyBusyError
from peftsweep.safe_text.quoting import quoted
from peftsweep.storage.attribute_tables import has_lease, mark_lease
from peftsweep.storage.database import Database
from peftsweep.storage.lock_holder import Doing, busy, note, overtaken
from peftsweep.system.names import shorten_name
from peftsweep.system.suggest import did_you_mean

# Notice within a minute that a machine is gone; a URL may override this. In seconds, but the last in milliseconds.
CONNECT = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
OURS = {"client_encoding", "replication"}  # connection settings that must not be changed, or studies could not be read
# The same on the server's side, so that it frees a dead machine's lease. Settings that it does not know are skipped.
SESSION = """
SELECT set_config(name, wanted, false) FROM pg_settings JOIN (VALUES
    ('tcp_keepalives_idle', '30'), ('tcp_keepalives_interval', '10'), ('tcp_keepalives_count', '3'),
    ('idle_session_timeout', '0')
) AS lease (name, wanted) USING (name)
"""
KEY = "hashtextextended('peftsweep/' || current_schema() || '/' || :name, 0)"
HOLDER = f"""
SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND datname = current_database() AND objsubid = 1
    AND (classid::bigint << 32 | objid::bigint) = {KEY}
"""
SERVER = """
SELECT system_identifier || '/' || oid FROM pg_control_system(), pg_database WHERE datname = current_database()
"""
BACKEND = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
# If the network fails only on our side, the server still holds the old connection, and its lock.
END = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid = :pid AND backend_start = :backend_start
"""


def _check_settings(url: URL, psycopg: Any) -> None:
    """Raises:
    StorageError: the URL has settings that libpq does not know. (The driver takes some of them as arguments.)
    """
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()} - OURS
    for key in url.query.keys() - known:
        hint = did_you_mean(key, known) or "; PostgreSQL's manual lists them as libpq's key words"
        raise StorageError(f"storage {quoted(str(url))}: {quoted(key)} is not a setting of a connection{hint}")


class Postgresql(Database):
    """A database of a PostgreSQL server, through psycopg.

    Args:
        url: `postgresql://user@host/studies`; the password may be in it, in PGPASSWORD or in ~/.pgpass.

    Raises:
        StorageError: the driver is not installed, or the URL has settings that it does not know.
    """

    def __init__(self, url: URL) -> None:
        self.url = url.set(drivername="postgresql")  # without the driver, messages show what people write
        self.leases: list[Lease] = []
        _check_settings(url, self._engine("peftsweep").dialect.loaded_dbapi)

    @property
    def artifacts(self) -> Path:
        """In the working folder."""
        return Path(f"{shorten_name(quote(str(self.url.database), safe=' '))}-artifacts")

    def tables(self) -> set[str]:
        with self._session("peftsweep").connect() as connection:
            return set(sqlalchemy.inspect(connection).get_table_names())

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._session("peftsweep").connect() as connection:
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({KEY})"), {"name": "/tables"})
            yield

    def open(self) -> RDBStorage:
        # pool_pre_ping: a server that restarts between two evaluations does no harm
        pool = self._engine("peftsweep", pool_pre_ping=True).pool
        try:
            storage = RDBStorage(_driven(self.url).render_as_string(hide_password=False), engine_kwargs={"pool": pool})
        except BaseException:
            pool.dispose()  # the driver warns about connections that nobody closed
            raise
        sqlalchemy.event.listen(storage.engine, "begin", self._renew)
        weakref.finalize(storage, pool.dispose)
        return storage

    def check_there(self) -> None:
        self.tables()

    def server(self) -> str | None:
        try:
            with self._session("peftsweep").connect() as connection:
                return str(connection.scalar(sqlalchemy.text(SERVER)))
        except DBAPIError:  # the server does not tell
            return None

    def holder(self, name: str) -> str | None:
        with self._session("peftsweep").connect() as connection:
            held = connection.execute(sqlalchemy.text(HOLDER), {"name": name}).first()
        return None if held is None else str(held[0])

    @contextmanager
    def lease(self, name: str, doing: Doing) -> Iterator[None]:
        lease = Lease(self._session(note(doing)), name)
        self.leases.append(lease)
        try:
            lease.take()
            yield
        finally:
            self.leases.remove(lease)
            lease.end()

    def _renew(self, _: Connection) -> None:
        """Before every transaction: a process that has lost its lease writes nothing."""
        for lease in self.leases:
            lease.renew()

    def _session(self, application: str) -> Engine:
        """Connections that are closed when they are returned, with every statement committed by itself."""
        return self._engine(application, poolclass=NullPool, pool_reset_on_return=None, isolation_level="AUTOCOMMIT")

    def _engine(self, application: str, **options: Any) -> Engine:
        connect = {key: value for key, value in CONNECT.items() if key not in self.url.query}
        try:
            return sqlalchemy.create_engine(
                _driven(self.url), connect_args=connect | {"application_name": application}, **options
            )
        except ImportError as error:
            raise StorageError(
                f"storage {self.url!r}: PostgreSQL needs its driver: pip install 'peftsweep[postgres]' ({error})"
            ) from error


def _driven(url: URL) -> URL:
    """The same address, with the driver that connects to it."""
    return url.set(drivername="postgresql+psycopg")


class Lease:
    """An advisory lock on a connection of its own: it ends with the process.

    The study stores a token of the lease that wrote last. A process that takes a lost lease again sees from the token
    whether another process had the study meanwhile. A pooler that spreads the statements of a session over several
    connections (PgBouncer in transaction mode) breaks the lock.

    Attributes:
        lost: why nothing may be read or written any more, after another process has had the study.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine, self.name = engine, name
        self.url = engine.url.set(drivername="postgresql").render_as_string()
        self.token = uuid4().hex
        self.connection: Connection | None = None
        self.backend: dict[str, Any] | None = None  # the server's own process of the connection
        self.marked = False  # whether the study has the token
        self.lost: StudyBusyError | None = None

    def take(self) -> None:
        """Raises:
        StudyBusyError: another process has the lease, or had it since this process lost it.
        """
        connection = self.engine.connect()
        try:
            connection.execute(sqlalchemy.text(SESSION))
            if self.backend is not None:
                connection.execute(sqlalchemy.text(END), self.backend)
            if not connection.scalar(sqlalchemy.text(f"SELECT pg_try_advisory_lock({KEY})"), {"name": self.name}):
                holder = connection.scalar(sqlalchemy.text(HOLDER), {"name": self.name})
                raise busy(self.name, self.url, holder or "")
            if self.marked and not has_lease(connection, self.name, self.token):
                raise overtaken(self.name, self.url)
            pid, start = connection.execute(sqlalchemy.text(BACKEND)).one()
            self.backend = {"pid": pid, "backend_start": start}
        except BaseException:
            connection.close()
            raise
        self.connection = connection

    def renew(self) -> None:
        """Take the lease again if the connection was lost, for instance because the server restarted.

        Raises:
            StudyBusyError: another process took it meanwhile. This stays so, even after that process ends.
        """
        if self.lost is not None:
            raise self.lost
        if not self._answers():
            self.end()
            try:
                self.take()
            except StudyBusyError as error:
                self.lost = error
                raise

    def _answers(self) -> bool:
        """Whether the connection works. The first time that the study exists, this writes the token."""
        if self.connection is None:
            return False
        try:
            if self.marked:
                self.connection.execute(sqlalchemy.text("SELECT 1"))
            else:
                self.marked = mark_lease(self.connection, self.name, self.token)
        except SQLAlchemyError:
            return False
        return True

    def end(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None
