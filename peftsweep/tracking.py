"""MLflow as a projection of the study: one parent run, a child run for each trial; and the server that shows them.

The study's own database is the truth. MLflow gets a copy, written by one thread behind a queue, so that a server that
is slow, down or wiped never slows or fails a trial.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from peftsweep.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

STATUS = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
PARENT = "parent"
PAUSE = 60.0  # seconds before a server that did not answer is asked again
PATIENCE = 10.0  # seconds that `close` waits for a server that did not answer before
WAITING = 20_000  # updates kept for a server that does not answer; beyond them curves lose points
NOTES = 3  # warnings at most, the summary at the end apart
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PARAM_LIMIT, TAG_LIMIT, BATCH_LIMIT = 6000, 8000, 100  # MLflow's own


class Tracker:
    """Writes a study to MLflow, behind a queue: every call returns at once and none fails.

    What finds no server waits in the queue and is tried again every minute, with the time at which it happened.

    Args:
        uri: an SQLite URL, or the address of an MLflow server.
        note: told, from any thread, a warning of one line: once per cause, and once at the end if anything was lost.
    """

    def __init__(self, uri: str, *, note: Callable[[str], None]) -> None:
        self._uri, self._note = uri, note
        self._runs = _Runs(uri)
        self._changed = threading.Condition()
        self._waiting: deque[Callable[[], None]] = deque()
        self._writer: threading.Thread | None = None
        self._closing = self._down = False
        self._retry_at = 0.0
        self._lost, self._reason = 0, ""
        self._noted: set[str] = set()
        self._spool: Path | None = None

    # What the sweep says ----------------------------------------------------------------------------------------------

    def open_study(
        self,
        name: str,
        *,
        experiment: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        known: Mapping[str, str],
    ) -> None:
        """Begin the parent run, or go on with the one of an earlier process.

        Args:
            known: `run_ids` of an earlier tracker; those that the store does not have any more are made anew.
        """
        run = _Run(PARENT, name, dict(params), dict(tags), _now())
        self._runs.ids.update(known)
        self._put(partial(self._runs.open, run, experiment))

    def settle(self, ended: Mapping[int, tuple[str, str]]) -> None:
        """End the runs that a killed process left running, of trials that have ended: state and reason by number."""
        self._put(partial(self._runs.settle, dict(ended), _now()))

    def start_trial(self, number: int, *, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Begin a trial's run under its parent, or go on with it."""
        run = _Run(str(number), f"trial-{number:04d}", dict(params), dict(tags), _now())
        self._put(partial(self._runs.start, run))

    def log(self, number: int, metrics: Mapping[str, float], step: int) -> None:
        """A point of each of a trial's curves; a step that is there from an earlier process is left as it is."""
        if len(self._waiting) < WAITING:
            self._put(partial(self._runs.log, str(number), dict(metrics), step, _now()))
        else:
            self._lost += 1

    def end_trial(
        self, number: int, *, state: str, reason: str, metrics: Mapping[str, float], artifacts: Mapping[str, Path]
    ) -> None:
        """End a trial's run. The files and folders in `artifacts` may go as soon as this returns.

        Args:
            state: "complete", "pruned", "failed" or "interrupted".
            artifacts: a file or a folder by its place in the run.
        """
        ending = _Ending(state, reason, dict(metrics), _now(), self._copied(artifacts))
        self._put(partial(self._runs.end, str(number), ending))

    def end_study(self, *, state: str, metrics: Mapping[str, float], artifacts: Mapping[str, Path]) -> None:
        """End the parent run: "complete" or "interrupted"."""
        ending = _Ending(state, "", dict(metrics), _now(), self._copied(artifacts))
        self._put(partial(self._runs.end, PARENT, ending))

    @property
    def run_ids(self) -> dict[str, str]:
        """MLflow's run ids as far as they are known: "parent", and each trial by its number."""
        return dict(self._runs.ids)

    def close(self, timeout: float = 60) -> None:
        """Write what waits, end what still runs, and say what was lost. Gives up after `timeout` seconds."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._retry_at = 0.0  # one more try
            self._changed.notify()
        if self._writer is not None:
            self._writer.join(min(timeout, PATIENCE) if self._down else timeout)
            if self._writer.is_alive():
                self._reason = self._reason or f"not written within {timeout:.0f} s"
        lost = self._lost + len(self._waiting)
        if lost:
            self._note(f"MLflow: {lost} update{'s were' if lost > 1 else ' was'} lost ({self._reason})")
        if self._spool is not None:
            shutil.rmtree(self._spool, ignore_errors=True)

    # The queue --------------------------------------------------------------------------------------------------------

    def _put(self, update: Callable[[], None]) -> None:
        with self._changed:
            if self._closing:
                return
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="mlflow", daemon=True)
                self._writer.start()
            self._waiting.append(update)
            self._changed.notify()

    def _copied(self, artifacts: Mapping[str, Path]) -> Path | None:
        """A folder that mirrors what the run shall have."""
        if not artifacts or self._closing:
            return None
        try:
            self._spool = self._spool or Path(tempfile.mkdtemp(prefix="peftsweep-mlflow-"))
            folder = Path(tempfile.mkdtemp(dir=self._spool))
        except OSError as error:
            self._lose(error)
            return None
        for place, source in artifacts.items():
            try:
                _copy(source, folder / place)
            except OSError as error:
                self._lose(error)
        return folder

    def _write(self) -> None:
        """The writer's thread: updates in their order."""
        while self._ready():
            if self._done(self._waiting[0]):
                self._waiting.popleft()
        if not self._waiting and not self._done(self._runs.end_rest):
            self._lost += 1

    def _ready(self) -> bool:
        """Wait until there is something to try; False when all is over."""
        with self._changed:
            while True:
                pause = self._retry_at - time.monotonic()
                if self._waiting and pause <= 0:
                    return True
                if self._closing:
                    return False
                self._changed.wait(pause if pause > 0 else None)

    def _done(self, update: Callable[[], None]) -> bool:
        """Try an update; False if it is to be tried again, because nobody answered."""
        for last in (False, True):
            try:
                update()
            except Exception as error:
                if last or _refused(error):  # it would be the same the next time
                    self._lose(error)
                    break
                if not self._answers():
                    self._pause(error)
                    return False
            else:
                break
        self._down = False
        return True

    def _answers(self) -> bool:
        try:
            self._runs.ping()
        except Exception as error:
            return _refused(error)
        return True

    def _pause(self, error: Exception) -> None:
        self._down, self._reason = True, self._because(error)
        self._retry_at = time.monotonic() + PAUSE
        self._say(f"MLflow at {masked(self._uri)} does not answer ({self._reason}); the study goes on without it")

    def _lose(self, error: Exception) -> None:
        self._lost += 1
        self._reason = self._because(error)
        self._say(f"MLflow at {masked(self._uri)} did not take an update ({self._reason})")

    def _say(self, text: str) -> None:
        if text not in self._noted and len(self._noted) < NOTES:
            self._noted.add(text)
            self._note(text)

    def _because(self, error: BaseException) -> str:
        """The innermost cause, in a line and without a password."""
        while not _refused(error) and (cause := error.__cause__ or error.__context__) is not None:
            error = cause
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
        return _without_password(first, self._uri)[:200]


# MLflow's side --------------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """A run as the study knows it; MLflow may not have heard of it yet."""

    key: str
    name: str
    params: dict[str, Any]
    tags: dict[str, str]
    started: int
    begun: Run | None = None  # as MLflow had it when this process began it or went on with it
    resumed: bool = False
    steps: dict[str, set[int]] = field(default_factory=dict)  # that a resumed run has already
    over: bool = False


@dataclass(frozen=True)
class _Ending:
    state: str
    reason: str
    metrics: dict[str, float]
    at: int
    artifacts: Path | None = None


class _Runs:
    """The runs in MLflow. Used by the writer's thread alone, save for `ids`.

    Every method may be called again after it failed half-way: what is there already is found, not made twice.
    """

    def __init__(self, uri: str) -> None:
        self.uri = _absolute(uri)  # a process may change its folder later
        self.artifacts = None if _is_server(uri) else artifact_root(uri)
        self.ids: dict[str, str] = {}
        self._runs: dict[str, _Run] = {}
        self._children: dict[str, Run] = {}  # of an earlier process
        self._experiment = ""
        self._connected: MlflowClient | None = None
        self._experiment_known: str | None = None

    def open(self, run: _Run, experiment: str) -> None:
        self._experiment = experiment
        self._runs[PARENT] = run
        self._begin(run)

    def settle(self, ended: dict[int, tuple[str, str]], at: int) -> None:
        self._begin(self._runs[PARENT])
        for number, (state, reason) in ended.items():
            child = self._children.get(str(number))
            if child is not None and child.info.status == "RUNNING":
                self._terminate(child.info.run_id, state, reason, at)

    def start(self, run: _Run) -> None:
        self._runs[run.key] = run
        self._begin(run)

    def log(self, key: str, metrics: dict[str, float], step: int, at: int) -> None:
        run = self._runs[key]
        run_id = self._begin(run)
        if run.resumed:
            metrics = {name: value for name, value in metrics.items() if step not in self._steps(run, name)}
        self._points(run_id, metrics, step, at)

    def end(self, key: str, ending: _Ending) -> None:
        run = self._runs[key]
        run_id = self._begin(run)
        before = {} if run.begun is None else run.begun.data.metrics
        self._points(run_id, {k: v for k, v in ending.metrics.items() if before.get(k) != v}, 0, ending.at)
        # Before the artifacts: a full disk must not leave the run going for ever.
        self._terminate(run_id, ending.state, ending.reason, ending.at)
        run.over = True
        if ending.artifacts is not None:
            self._client().log_artifacts(run_id, str(ending.artifacts))
            shutil.rmtree(ending.artifacts, ignore_errors=True)

    def end_rest(self) -> None:
        """End what this process began and nobody ended; the parent last."""
        for key in sorted(self._runs, key=PARENT.__eq__):
            if not self._runs[key].over and self._runs[key].begun is not None:
                self.end(key, _Ending("interrupted", "", {}, _now()))

    def ping(self) -> None:
        self._client().get_experiment_by_name(self._experiment)

    def _client(self) -> MlflowClient:
        if self._connected is None:
            os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # its news would tear the live table
            if _is_server(self.uri):  # by default a call to a dead server takes four minutes
                os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
                os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
            from mlflow import MlflowClient

            self._connected = MlflowClient(tracking_uri=self.uri)
        return self._connected

    def _experiment_id(self) -> str:
        if self._experiment_known is None:
            client, name = self._client(), self._experiment
            found = client.get_experiment_by_name(name)
            if found is None:
                folder = re.sub(r"\W+", "-", name).strip("-") or "study"
                location = None if self.artifacts is None else (self.artifacts / folder).as_uri()
                self._experiment_known = client.create_experiment(name, artifact_location=location)
            else:
                if found.lifecycle_stage == "deleted":
                    client.restore_experiment(found.experiment_id)
                self._experiment_known = found.experiment_id
        return self._experiment_known

    def _begin(self, run: _Run) -> str:
        """The run's id; a run that is not there yet is made, one of an earlier process goes on."""
        if run.begun is not None:
            return self.ids[run.key]
        tags = run.tags | {"peftsweep.state": "running"}
        if run.key != PARENT:
            tags |= {"mlflow.parentRunId": self._begin(self._runs[PARENT]), "peftsweep.trial": run.key}
        client, found = self._client(), self._find(run.key)
        if found is None:
            if run.key == PARENT:  # a wiped store: the children went with it
                self.ids.clear()
            found = client.create_run(self._experiment_id(), run.started, tags, run.name)
            self.ids[run.key] = found.info.run_id
        else:
            run.resumed = True
            client.update_run(found.info.run_id, status="RUNNING")
            if "peftsweep.reason" in found.data.tags:
                client.delete_tag(found.info.run_id, "peftsweep.reason")
            if run.key == PARENT:
                self._children = self._search_children(found)
        self._describe(found, run.params, tags)
        run.begun = found
        return self.ids[run.key]

    def _find(self, key: str) -> Run | None:
        """The run in the store, if an earlier process, or an earlier try, made it."""
        if key in self._children:
            self.ids[key] = self._children[key].info.run_id
        if key not in self.ids:
            return None
        try:
            found = self._client().get_run(self.ids[key])
        except Exception as error:
            if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        here = found.info.lifecycle_stage == "active" and found.info.experiment_id == self._experiment_id()
        return found if here else None

    def _search_children(self, parent: Run) -> dict[str, Run]:
        found: dict[str, Run] = {}
        token: str | None = None
        query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        while True:
            page = self._client().search_runs([parent.info.experiment_id], query, page_token=token)
            found |= {run.data.tags["peftsweep.trial"]: run for run in page if "peftsweep.trial" in run.data.tags}
            token = page.token
            if not token:
                return found

    def _describe(self, found: Run, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Params and tags. A param cannot change in MLflow: another value becomes a tag."""
        from mlflow.entities import Param, RunTag

        texts = {key: str(value)[:PARAM_LIMIT] for key, value in params.items()}
        there = found.data.params
        changed = {f"param_changed.{k}": text for k, text in texts.items() if there.get(k, text) != text}
        new_params = [Param(key, text) for key, text in texts.items() if key not in there]
        new_tags = [RunTag(k, v[:TAG_LIMIT]) for k, v in (tags | changed).items() if found.data.tags.get(k) != v]
        for first in range(0, max(len(new_params), len(new_tags)), BATCH_LIMIT):
            part = slice(first, first + BATCH_LIMIT)
            self._client().log_batch(found.info.run_id, params=new_params[part], tags=new_tags[part])

    def _steps(self, run: _Run, metric: str) -> set[int]:
        if metric not in run.steps:
            assert run.begun is not None
            history = self._client().get_metric_history(run.begun.info.run_id, metric)
            run.steps[metric] = {point.step for point in history}
        return run.steps[metric]

    def _points(self, run_id: str, metrics: dict[str, float], step: int, at: int) -> None:
        from mlflow.entities import Metric

        points = [Metric(name, float(value), at, step) for name, value in metrics.items() if math.isfinite(value)]
        if points:
            self._client().log_batch(run_id, metrics=points)

    def _terminate(self, run_id: str, state: str, reason: str, at: int) -> None:
        from mlflow.entities import RunTag

        tags = {"peftsweep.state": state} | ({"peftsweep.reason": reason[:TAG_LIMIT]} if reason else {})
        self._client().log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        self._client().set_terminated(run_id, STATUS[state], at)


# The server -----------------------------------------------------------------------------------------------------------


def _print(text: str) -> None:
    print(text, flush=True)


def server_command(uri: str, host: str, port: int) -> list[str]:
    """The command that starts MLflow's server on a store, with the artifacts where `Tracker` puts them."""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", _absolute(uri)),
        *("--serve-artifacts", "--artifacts-destination", artifact_root(uri).as_uri()),
    ]


def serve(uri: str, host: str = "127.0.0.1", port: int = 5000, note: Callable[[str], None] = _print) -> int:
    """Run MLflow's server until Ctrl-C, SIGTERM or the end of the terminal, and return 0.

    Raises:
        TrackingError: nothing is tracked there yet, it is a server already, the port is taken, or the server broke.
    """
    _check_store(uri)
    _check_port(host, port)
    try:
        with _stopped_by_signals(), tempfile.TemporaryFile() as chatter, _server(uri, host, port, chatter) as server:
            _await_health(server, host, port, chatter)
            note(f"MLflow: http://{_in_url(host)}:{port} (Ctrl-C ends it)")
            if not _is_loopback(host):
                note(f"warning: the server asks nobody for a password, and {host} is open to other machines")
            server.wait()
            raise TrackingError(f"the MLflow server ended by itself{_last_words(chatter)}")
    except KeyboardInterrupt:
        return 0


def _check_store(uri: str) -> None:
    if _is_server(uri):
        raise TrackingError(f"{masked(uri)} is an MLflow server already: open it in a browser")
    file = sqlite_file(uri)
    if file is not None and not file.is_file():
        raise TrackingError(f"nothing is tracked in {file} yet: run a study first, such as peftsweep run --study demo")


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise TrackingError(
            f"cannot listen on port {port} of {host} ({error.strerror or error}): choose another --port or --host"
        ) from None


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and the end of the terminal are as Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.default_int_handler) for number in ENDINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _server(uri: str, host: str, port: int, chatter: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The server's processes, in a group of their own so that none outlives this."""
    server = subprocess.Popen(
        server_command(uri, host, port),
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # three processes more, for what is not used
        stdin=subprocess.DEVNULL,
        stdout=chatter,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield server
    finally:
        if threading.current_thread() is threading.main_thread():
            for number in ENDINGS:
                signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave the group behind
        _end_group(server)


def _end_group(server: subprocess.Popen[bytes]) -> None:
    for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        until = time.monotonic() + patience
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(server.pid, number)
            while time.monotonic() < until:
                server.poll()  # the group is gone only when its leader is reaped
                os.killpg(server.pid, 0)
                time.sleep(0.05)


def _await_health(server: subprocess.Popen[bytes], host: str, port: int, chatter: IO[bytes]) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if server.poll() is not None:
            raise TrackingError(f"the MLflow server did not start{_last_words(chatter)}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(_reachable(host), port, timeout=2)
            try:
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            finally:
                connection.close()
        time.sleep(0.1)
    raise TrackingError(f"the MLflow server does not answer on port {port}{_last_words(chatter)}")


def _last_words(chatter: IO[bytes]) -> str:
    chatter.seek(0)
    lines = [line for line in chatter.read().decode(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1].strip()}" if lines else ""


# Addresses and files --------------------------------------------------------------------------------------------------


def masked(uri: str) -> str:
    """The URI without its password: `http://user:***@host`."""
    return _without_password(uri, uri)


def sqlite_file(uri: str) -> Path | None:
    """The absolute path of an SQLite URL's file; None for any other URI."""
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", uri)
    return None if match is None or match[1] == ":memory:" else Path(match[1]).absolute()


def _absolute(uri: str) -> str:
    file = sqlite_file(uri)
    return uri if file is None else f"sqlite:///{file}{uri[uri.index('?') :] if '?' in uri else ''}"


def artifact_root(uri: str) -> Path:
    """The folder of a store's artifacts: beside an SQLite file, else in the working folder. Never `./mlruns`: it would
    turn MLflow's default back to a store of files."""
    file = sqlite_file(uri)
    return (Path.cwd() if file is None else file.parent) / "mlartifacts"


def _without_password(text: str, uri: str) -> str:
    password = urlsplit(uri).password if "://" in uri else None
    for secret in {password, unquote(password)} if password else ():
        text = text.replace(f":{secret}@", ":***@")
    return text


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reachable(host: str) -> str:
    """An address that answers for all of them."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _in_url(host: str) -> str:
    reachable = _reachable(host)
    return f"[{reachable}]" if ":" in reachable else reachable


def _refused(error: BaseException) -> bool:
    """Whether MLflow answered, and the answer will be the same the next time."""
    code = getattr(error, "error_code", None)
    return code is not None and code not in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link)
    else:
        _link(source, target)


def _link(source: str | Path, target: str | Path) -> None:
    """A second name for the file where the file system can, else a copy."""
    try:
        Path(target).hardlink_to(Path(source).resolve())
    except OSError:
        shutil.copy(source, target)


def _now() -> int:
    return int(time.time() * 1000)
