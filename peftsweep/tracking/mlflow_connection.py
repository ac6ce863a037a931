"""How MLflow is reached: a client, made when it is needed, and of use as long as its database is there."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from peftsweep.errors import TrackingError
from peftsweep.tracking.locations import absolute, database_host, is_server, look_into, sqlite_file
from peftsweep.tracking.mlflow_database import make_store
from peftsweep.tracking.mlflow_logs import silence

if TYPE_CHECKING:
    from peftsweep.tracking.mlflow_client import Client


SECONDS = 10  # for a database's host to answer


class Connection:
    """Args:
    uri: an SQLite URL, or the address of an MLflow server.
    """

    def __init__(self, uri: str) -> None:
        self.uri = absolute(uri)  # a process may change its folder later
        self._file = sqlite_file(self.uri)
        self._before: os.stat_result | None = None  # the file, as it was when the client was made
        self._client: Client | None = None

    def client(self) -> Client:
        """Raises TrackingError: its database is gone, and MLflow would write on into a file without a name."""
        if self._client is None:
            self._client = self._made()
        if self._file is not None and not _is_there(self._file, self._before):
            raise TrackingError("its file was removed or replaced")
        return self._client

    def _made(self) -> Client:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # its makers would hear of each run
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for each run that ends
        if is_server(self.uri):
            # by default a call to a dead server takes four minutes; and a request whose answer was lost must not be
            # made again before it is looked up what became of it
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        elif self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            make_store(self._file)
            look_into(self._file)  # MLflow itself goes on trying for 102 seconds
            self._before = self._file.stat()
        elif place := database_host(self.uri):
            _answers(self.uri, *place)
        from peftsweep.tracking.mlflow_client import Client

        silence()
        return Client(tracking_uri=self.uri)


def _answers(uri: str, host: str | None, port: int) -> None:
    """Whether MLflow's database can be used. MLflow itself would go on trying for minutes, whatever is wrong.

    Raises:
        Exception: what Python, the driver or the database says.
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


def refused(error: BaseException) -> bool:
    """Whether MLflow answered, and the answer will be the same the next time."""
    code = getattr(error, "error_code", None)
    return code is not None and code not in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
