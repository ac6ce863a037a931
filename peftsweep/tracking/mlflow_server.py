"""How does `peftsweep ui` run MLflow's server?"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO
from urllib.parse import urlencode

from peftsweep.errors import TrackingError
from peftsweep.safe_text.quoting import quoted
from peftsweep.safe_text.secrets import masked
from peftsweep.system import json_files
from peftsweep.system.names import host_refusal
from peftsweep.system.signals import end_group, ignore_all, stopped_by_signals
from peftsweep.system.terminal import say
from peftsweep.tracking.locations import absolute, artifact_root, check, is_server, sqlite_file, table_names


def _print(text: str) -> None:
    say(text, sys.stdout)


def server_command(uri: str, host: str, port: int) -> list[str]:
    """The command that starts MLflow's server, with the folder of artifacts that `Tracker` uses."""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"),
        *("--serve-artifacts", "--artifacts-destination", artifact_root(uri).as_uri()),
    ]


def server_environment(uri: str) -> dict[str, str]:
    """Variables that name the server's store. Its command must not: every user of the machine can read commands."""
    return {
        "MLFLOW_BACKEND_STORE_URI": absolute(uri),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # three processes that are not needed
        # MLflow's pages would report clicks to their makers
        "MLFLOW_DISABLE_TELEMETRY": os.environ.get("MLFLOW_DISABLE_TELEMETRY", "true"),
        "PYTHONSAFEPATH": "1",  # do not import an mlflow.py from the working folder
        "MLFLOW_LOGGING_LEVEL": "INFO",  # errors are read from its log, which the terminal never shows
    }


def serve(uri: str, host: str = "127.0.0.1", port: int = 5000, note: Callable[[str], None] = _print) -> int:
    """Run MLflow's server until Ctrl-C, SIGTERM or the end of the terminal, and return 0.

    Raises:
        TrackingError: nothing is tracked there yet, the URI is a server's, the port is taken, or the server failed.
    """
    _check_store(uri)
    _check_port(host, port)
    try:
        with stopped_by_signals(), tempfile.TemporaryFile() as log, _server(uri, host, port, log) as server:
            _await_health(server, host, port, log)
            note(f"MLflow: http://{in_url(host)}:{port}{_newest_runs(host, port)} (Ctrl-C stops it)")
            if not is_loopback(host):
                note(f"warning: the server has no password, and other machines can reach {host}")
            server.wait()
            raise TrackingError(f"the MLflow server stopped by itself{_last_line(log)}")
    except KeyboardInterrupt:
        return 0


def _check_store(uri: str) -> None:
    check(uri)
    if is_server(uri):
        raise TrackingError(f"{masked(uri)} is an MLflow server; open it in a browser")
    file = sqlite_file(uri)
    if file is None:
        return
    if not file.exists():
        raise TrackingError(f"nothing is tracked in {file} yet; run a study first, such as peftsweep run --study demo")
    try:
        tables = table_names(file)
    except sqlite3.Error as error:
        raise TrackingError(f"{file} is not a database of MLflow ({error})") from None
    if "studies" in tables:  # MLflow would write its tables into it, and then fail
        raise TrackingError(f"{file} holds the studies; MLflow's runs are in another file, by default mlflow.db")


def _check_port(host: str, port: int) -> None:
    if not host.strip() or host_refusal(host):
        raise TrackingError(
            f"--host {quoted(host)} is not an address: 127.0.0.1 is for this machine only, 0.0.0.0 for others too"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        why = str(error.strerror or error).partition(" (")[0]  # the rest repeats the address
        raise TrackingError(f"cannot listen on port {port} of {host} ({why}); give another --port or --host") from None


@contextlib.contextmanager
def _server(uri: str, host: str, port: int, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The server's processes, in a process group of their own, so that all of them can be ended."""
    server = subprocess.Popen(
        server_command(uri, host, port),
        env=os.environ | server_environment(uri),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield server
    finally:
        ignore_all()  # a second Ctrl-C must not leave processes behind
        end_group(server)


def _await_health(server: subprocess.Popen[bytes], host: str, port: int, log: IO[bytes]) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if server.poll() is not None:
            raise TrackingError(f"the MLflow server did not start{_last_line(log)}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _get(host, port, "/health")[0] == 200:
                return
        time.sleep(0.1)
    raise TrackingError(f"the MLflow server does not answer on port {port}{_last_line(log)}")


def _newest_runs(host: str, port: int) -> str:
    """The path of the newest experiment's runs, or nothing. MLflow's start page is about chats and hides them."""
    newest = {"max_results": 1, "order_by": "creation_time DESC", "filter": "name != 'Default'"}
    try:
        status, answer = _get(host, port, f"/api/2.0/mlflow/experiments/search?{urlencode(newest)}")
    except (OSError, http.client.HTTPException):
        return ""
    try:
        newest_id = json_files.parse(answer)["experiments"][0]["experiment_id"] if status == 200 else ""
    except (ValueError, LookupError, TypeError):  # no experiment yet, or not an answer of MLflow
        return ""
    return f"/#/experiments/{newest_id}?workflowType=machine_learning" if newest_id else ""


def _get(host: str, port: int, path: str) -> tuple[int, bytes]:
    """The server's status and answer. Proxies of the environment are not used."""
    with contextlib.closing(http.client.HTTPConnection(reachable(host), port, timeout=2)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
    useful = [line for line in lines if line and not line.startswith("(Background on this error")]
    return f": {masked(useful[-1])}" if useful else ""


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def reachable(host: str) -> str:
    """An address at which a server that listens on all addresses answers."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def in_url(host: str) -> str:
    address = reachable(host)
    return f"[{address}]" if ":" in address else address
