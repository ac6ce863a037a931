"""Whole sweeps while MLflow's server fails: no trial is affected, and MLflow has everything in the end."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
import pytest

from peftsweep import sweep
from peftsweep.errors import TrackingError
from peftsweep.progress import Silent
from peftsweep.storage import Studies
from peftsweep.sweep import SweepResult, run_study
from peftsweep.tracking import Tracker
from peftsweep.tracking.mlflow_server import server_command, server_environment
from peftsweep.tracking.queue import PATIENCE
from tests.programs import free_port
from tests.studies import Home, all_of, empty_mlflow, home, until

SLACK = 10.0  # seconds that the program itself needs to end on a busy machine
CREATE = "/api/2.0/mlflow/runs/create"
Trouble = Callable[[int, str], bool]
CALLS = ("open_study", "catch_up", "start_trial", "log", "end_trial", "end_study", "store_page", "close")


class Server:
    """MLflow's own server, as `peftsweep ui` starts it."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        (folder / "mlflow.db").write_bytes(empty_mlflow())
        self.store, self.uri = f"sqlite:///{folder}/mlflow.db", f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            server_command(self.store, "127.0.0.1", self.port),
            env=os.environ | server_environment(self.store),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until = time.monotonic() + 60
        while not self.answers():
            assert time.monotonic() < until
            time.sleep(0.1)

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class Proxy(ThreadingHTTPServer):
    """A proxy in front of the server, which can delay requests and lose answers.

    Attributes:
        count: requests so far.
        under_way: requests that the server has not answered yet.
        trouble: called with each request's number and path before it is passed on; returns False to lose the answer.
        instead: answers with status 200 in place of the server's, by the end of the path.
    """

    daemon_threads = True

    def __init__(self, server: Server, trouble: Trouble) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.server, self.trouble, self.count, self.under_way = server, trouble, 0, 0
        self.instead: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"


class Passing(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            self.server.count += 1
            self.server.under_way += 1
            number = self.server.count
        place = self.path.partition("?")[0].rpartition("/mlflow/")[2]
        try:
            if place in self.server.instead:
                self.say(200, "application/json", self.server.instead[place])
            else:
                self.answer(body, self.server.trouble(number, self.path))
        finally:
            with self.server.lock:
                self.server.under_way -= 1

    def answer(self, body: bytes, answered: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server.port, timeout=60)
        kept = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection", "accept-encoding")}
        connection.request(self.command, self.path, body, kept)
        answer = connection.getresponse()
        found = answer.read()
        connection.close()
        if not answered:
            self.close_connection = True
            return
        self.say(answer.status, answer.headers["Content-Type"] or "text/plain", found)

    def say(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
    setattr(Passing, f"do_{method}", Passing.pass_on)


@contextlib.contextmanager
def proxied(server: Server, trouble: Trouble) -> Iterator[Proxy]:
    with Proxy(server, trouble) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


class After(Silent):
    """Progress that calls a function when so many trials have ended, and remembers warnings."""

    def __init__(self, events: Mapping[int, Callable[[], None]]) -> None:
        self.events, self.count, self.warned = events, 0, list[str]()

    def ended(self, *args: Any) -> None:
        self.count += 1
        self.events.get(self.count, lambda: None)()

    def warn(self, text: str) -> None:
        self.warned.append(text)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server"))
    running.start()
    yield running
    running.kill()


class Sampler:
    """Looks every few milliseconds at what the main thread is doing, and adds up the seconds by function.

    A thread sends signals to the main thread, whose handler looks at its own stack: it is not safe to read the stack of
    another thread while that runs.

    Args:
        functions: if one calls another, only the inner one counts.
    """

    def __init__(self, functions: Iterable[Callable[..., Any]]) -> None:
        self.names = {function.__code__: function.__name__ for function in functions}
        self.seconds = dict.fromkeys(self.names.values(), 0.0)
        self.before, self.ended = time.monotonic(), threading.Event()

    def sample(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        while frame is not None and frame.f_code not in self.names:
            frame = frame.f_back
        if frame is not None:
            self.seconds[self.names[frame.f_code]] += now - self.before
        self.before = now

    def send(self, to: int) -> None:
        while not self.ended.wait(0.005):
            signal.pthread_kill(to, signal.SIGUSR1)


@pytest.fixture
def spent() -> Iterator[Callable[[], dict[str, float]]]:
    """Returns the seconds that the main thread has spent in each call of a tracker, and else in `train`."""
    sampler = Sampler([run_study.train, *(getattr(Tracker, name) for name in CALLS)])
    before = signal.signal(signal.SIGUSR1, sampler.sample)
    sender = threading.Thread(target=sampler.send, args=[threading.get_ident()])
    sender.start()
    yield lambda: sampler.seconds
    sampler.ended.set()
    sender.join()
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def here(tmp_path: Path) -> Home:
    return home(tmp_path / "home", mlflow=False)


def swept(place: Home, uri: str, progress: After) -> SweepResult:
    return place.run(place.study(search={"trials": 3}), tracking_uri=uri, slots=1, progress=progress)


def check_unaffected(result: SweepResult, spent: Callable[[], Mapping[str, float]]) -> None:
    """All trials are complete, and no call except the last took long: importing MLflow alone would."""
    assert result.counts == {"complete": 3}
    seconds = spent()
    assert seconds["train"] > 0  # the sampler saw the sweep
    assert sum(seconds[name] for name in CALLS if name != "close") < 0.5


def check_in_sync(place: Home, study: optuna.Study, uri: str) -> None:
    """MLflow has once everything that an empty one gets of this study, and another sync changes nothing."""
    key = study.user_attrs["key"]
    there = all_of(uri, key)
    assert set(there) == {"parent", "0", "1", "2"}
    assert sweep.sync(storage=place.storage, tracking_uri=uri) == {"small": "in sync"}
    assert all_of(uri, key) == there
    (place.folder / "mlflow.db").write_bytes(empty_mlflow())
    assert sweep.sync(storage=place.storage, tracking_uri=place.tracking_uri) == {"small": "written"}
    anew = all_of(place.tracking_uri, key)
    for name in there:
        for mine, theirs in zip(there[name], anew[name], strict=True):
            assert mine == theirs, name


def test_a_server_killed_and_restarted_during_a_sweep_has_everything_at_the_end(
    here: Home, server: Server, spent: Callable[[], dict[str, float]], capfd: pytest.CaptureFixture[str]
) -> None:
    progress = After({1: server.kill, 2: server.start})
    result = swept(here, server.uri, progress)
    check_unaffected(result, spent)
    assert capfd.readouterr().out == ""  # MLflow's client would print the address of each run
    check_in_sync(here, result.study, server.uri)


def test_what_a_server_killed_during_a_sweep_missed_is_written_by_the_next_command(
    here: Home, server: Server, spent: Callable[[], dict[str, float]]
) -> None:
    progress = After({2: server.kill})
    result = swept(here, server.uri, progress)
    check_unaffected(result, spent)
    assert spent()["close"] < PATIENCE / 2  # the server is known to be dead: it is not waited for
    assert "not written" in progress.warned[-1] and "peftsweep sync" in progress.warned[-1]
    server.start()
    assert "2" not in all_of(server.uri, result.study.user_attrs["key"])
    again = swept(here, server.uri, After({}))  # nothing is left to train
    assert again.counts == {"complete": 3}
    check_in_sync(here, result.study, server.uri)


def test_a_server_that_accepts_and_never_answers_delays_the_end_by_ten_seconds(
    here: Home, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the real program, because nothing that MLflow's client leaves behind may delay the exit either."""
    answers = threading.Event()
    study = str(here.study(search={"trials": 3}))
    with proxied(server, lambda *_: answers.wait(120)) as proxy:
        with here.start("run", "--study", study, "--slots", "1", "--tracking-uri", proxy.uri) as program:
            assert program.stderr is not None and program.stdout is not None
            until(lambda: "trial 2" in program.stderr.readline(), program)
            began = time.monotonic()
            said = program.stderr.read()
            assert program.wait(60) == 0 and program.stdout.read() == "" and "3 complete" in said
            assert time.monotonic() - began < PATIENCE + SLACK
        assert "not written" in said and "peftsweep sync" in said
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        with pytest.raises(TrackingError, match=f"^MLflow at {proxy.uri} does not answer .*timed out"):
            sweep.sync(storage=here.storage, tracking_uri=proxy.uri)
        answers.set()
        monkeypatch.undo()
        assert sweep.sync(storage=here.storage, tracking_uri=proxy.uri) == {"small": "written"}
        check_in_sync(here, Studies(here.storage).load("small"), proxy.uri)


def test_a_slow_server_does_not_slow_the_sweep_and_gets_the_rest_later(
    here: Home, server: Server, spent: Callable[[], dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = threading.Event()
    slow.set()

    def slowly(*_: object) -> bool:
        if slow.is_set():
            time.sleep(1)
        return True

    monkeypatch.setattr("peftsweep.tracking.queue.TIMEOUT", 3.0)
    with proxied(server, slowly) as proxy:
        progress = After({})
        result = swept(here, proxy.uri, progress)
        check_unaffected(result, spent)
        assert spent()["close"] < 3 + PATIENCE / 2
        assert "not written (it took too long)" in progress.warned[-1]
        slow.clear()
        while proxy.under_way:  # the server may still do what `run` gave up on
            time.sleep(0.1)
        assert sweep.sync(storage=here.storage, tracking_uri=proxy.uri) == {"small": "written"}
        check_in_sync(here, result.study, proxy.uri)


@pytest.mark.parametrize("nth", [1, 2], ids=["the study's", "a trial's"])
def test_sync_creates_no_run_twice_if_an_answer_is_lost(here: Home, server: Server, nth: int) -> None:
    result = here.run(here.study(search={"trials": 3}), slots=1)
    made = itertools.count(1)
    with proxied(server, lambda _, path: path != CREATE or next(made) != nth) as proxy:
        assert sweep.sync(storage=here.storage, tracking_uri=proxy.uri) == {"small": "written"}
    assert next(made) > nth
    check_in_sync(here, result.study, server.uri)


@pytest.mark.parametrize("nth", [1, 2], ids=["the study's", "a trial's"])
def test_a_run_that_a_delayed_request_creates_again_is_removed_by_the_next_sync(
    here: Home, server: Server, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """A request may be delayed for any time, and MLflow cannot distinguish it from a new one."""
    late = threading.Event()
    monkeypatch.setattr("peftsweep.tracking.queue.TIMEOUT", 1.0)
    made = itertools.count(1)
    with proxied(server, lambda _, path: path != CREATE or next(made) != nth or late.wait(120)) as proxy:
        result = swept(here, proxy.uri, After({}))
        assert result.counts == {"complete": 3}
        assert sweep.sync(storage=here.storage, tracking_uri=server.uri) == {"small": "written"}
        late.set()
        while proxy.under_way:
            time.sleep(0.1)
    key = result.study.user_attrs["key"]
    with pytest.raises(AssertionError, match=r"two runs of (parent|0)"):
        all_of(server.uri, key)
    ids = set(Studies(here.storage).load("small").user_attrs["mlflow_runs"].values())
    assert sweep.sync(storage=here.storage, tracking_uri=server.uri) == {"small": "written"}
    assert set(Studies(here.storage).load("small").user_attrs["mlflow_runs"].values()) == ids  # the complete runs stay
    check_in_sync(here, result.study, server.uri)


def test_no_run_is_created_twice_if_answers_are_lost(
    here: Home, server: Server, spent: Callable[[], dict[str, float]]
) -> None:
    """The server did what it was asked to do, but the client never learns of it."""
    with proxied(server, lambda count, _: count % 5 > 0) as proxy:
        result = swept(here, proxy.uri, After({}))
        check_unaffected(result, spent)
        assert proxy.count > 40
        proxy.trouble = lambda *_: True
        if not result.study.user_attrs["mlflow_level"]:  # the same answer was lost twice
            sweep.sync(storage=here.storage, tracking_uri=proxy.uri)
        check_in_sync(here, result.study, proxy.uri)


NONSENSE = {
    "nothing": b"{}",
    "other types": b'{"run": {"info": {"run_id": 5}}, "experiment": 5, "experiment_id": {}, "runs": {"a": 1}}',
    "no ids": b'{"run": {"info": {"run_id": "../x"}}, "experiment": {"experiment_id": "a b"}, "runs": [{"info": {}}]}',
    "no JSON": b"<html>Sign in</html>",
}


def test_no_id_of_a_nonsensical_answer_is_stored_and_sync_writes_everything_afterwards(
    here: Home, server: Server
) -> None:
    places = ["experiments/get-by-name", "experiments/create", "runs/create", "runs/search", "runs/get"]
    with proxied(server, lambda *_: True) as proxy:
        proxy.instead = dict.fromkeys(places, NONSENSE["nothing"])
        progress = After({})
        study = swept(here, proxy.uri, progress).study
        first, last = (text for text in progress.warned if text.startswith("MLflow"))
        assert study.user_attrs.get("mlflow_runs", {}) == {}
        assert proxy.uri in first and "no answer" in first and "not written" in last
        wrong = [dict.fromkeys(places, answer) for answer in NONSENSE.values()]
        wrong += [{place: NONSENSE[kind]} for place in places for kind in ("nothing", "no ids")]
        for proxy.instead in wrong:
            with contextlib.suppress(TrackingError):
                sweep.sync(storage=here.storage, tracking_uri=proxy.uri)
            ids = Studies(here.storage).load("small").user_attrs.get("mlflow_runs", {})
            assert all(len(each) == 32 for each in ids.values()) and len(set(ids.values())) == len(ids)
    sweep.sync(storage=here.storage, tracking_uri=server.uri)
    check_in_sync(here, study, server.uri)


def test_mlflow_s_own_log_does_not_reach_the_terminal_if_its_database_is_wiped_during_a_sweep(
    here: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    file = here.folder / "mlflow.db"
    file.write_bytes(empty_mlflow())
    before = logging.getLogger("mlflow").level
    progress = After({1: file.unlink})
    capfd.readouterr()  # MLflow reports the database that `empty_mlflow` makes
    result = swept(here, here.tracking_uri, progress)
    assert result.counts == {"complete": 3} and capfd.readouterr() == ("", "")
    first, *_, last = (text for text in progress.warned if text.startswith("MLflow"))
    assert first.startswith(f"MLflow at {here.tracking_uri} does not answer (") and "removed" in first
    assert "not written" in last and "peftsweep sync" in last
    assert logging.getLogger("mlflow").level == before
    again = here.call("sync")
    assert (again.returncode, again.stderr.strip()) == (0, "small: written (4 runs made, comparison.html)")
    shutil.copy(file, here.folder / "copy.db")  # because MLflow keeps the deleted file open
    assert set(all_of(f"sqlite:///{here.folder}/copy.db")) == {"parent", "0", "1", "2"}
