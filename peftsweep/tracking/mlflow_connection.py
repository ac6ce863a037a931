"""How is MLflow reached? By a client that is made when it is first needed, and used while its database exists."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from peftsweep.errors import TrackingError
from peftsweep.tracking.locations import absolute, database_host, is_server, sqlite_file, table_names
from peftsweep.tracking.mlflow_database import make_store
from peftsweep.tracking.mlflow_logs import silence

if TYPE_CHECKING:
    from peftsweep.tracking.mlflow_client import Client


SECONDS = 10  # time limit for a database's host to answer
# MLflow makes a database's tables by alembic, which works on one database of a process at a time.
_making = threading.Lock()


class Connection:
    """
    Args:
        uri: an SQLite URL, or the address of an MLflow server.
    """

    def __init__(self, uri: str) -> None:
        self.uri = absolute(uri)  # the process may change its working folder later
        self._file = sqlite_file(self.uri)
        self._before: os.stat_result | None = None  # the file when the client was made
        self._client: Client | None = None

    def client(self) -> Client:
        """
        Raises:
            TrackingError: the database file is gone; MLflow would go on writing into the deleted file.
        """
        if self._client is None:
            with _making:
                self._client = self._made()
        if self._file is not None and not _is_there(self._file, self._before):
            raise TrackingError("its file was removed or replaced")
        return self._client

    def _made(self) -> Client:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow would report each run to its makers
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for each run
        if is_server(self.uri):
            # By default a call to a dead server takes four minutes. And if an answer was lost, the request must not be
            # repeated before it is known what became of it.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        elif self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            make_store(self._file)
            table_names(self._file)  # MLflow itself would retry for 102 seconds
            self._before = self._file.stat()
        elif place := database_host(self.uri):
            _check_database(self.uri, *place)
        from peftsweep.tracking.mlflow_client import Client

        silence()
        return Client(tracking_uri=self.uri)


def _check_database(uri: str, host: str | None, port: int) -> None:
    """Connect to MLflow's database once. MLflow itself would retry for minutes, whatever is wrong.

    Raises:
        Exception: of Python, the driver or the database.
    """
    if host is not None:
        socket.create_connection((host, port), timeout=SECONDS).close()
    from mlflow.store.db.utils import create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(uri)  # type: ignore[no-untyped-call]
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def _is_there(file: Path, before: os.stat_result | None) -> bool:
    try:
        return before is not None and os.path.samestat(file.stat(), before)
    except OSError:
        return False


def is_final(error: BaseException) -> bool:
    """Whether MLflow answered with this error, and would answer the same the next time."""
    code = getattr(error, "error_code", None)
    return code is not None and code not in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
