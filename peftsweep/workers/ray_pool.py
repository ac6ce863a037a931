"""How does a sweep use workers of Ray? Through the broker, a process that speaks with Ray in its stead."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing import Pipe
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Literal

from peftsweep import __version__
from peftsweep.engine import Command, StartTrials
from peftsweep.errors import UsageError, WorkerError
from peftsweep.methods import METHODS
from peftsweep.safe_text.quoting import quoted
from peftsweep.safe_text.secrets import masked
from peftsweep.safe_text.secrets.secret_names import means_secret
from peftsweep.storage.identity import OWNER
from peftsweep.system.addresses import check_answers, resolved
from peftsweep.system.ray_errors import last_words
from peftsweep.system.signals import PATIENCE, end_session
from peftsweep.system.worker_resources import allowed_threads
from peftsweep.workers.checkpoint_folders import Landmark
from peftsweep.workers.pickled import check_importable, dumped
from peftsweep.workers.pool import Answer, Call, Failed, Lost
from peftsweep.workers.worker import WorkerSpec

BROKER = Path(__file__).with_name("ray_broker.py")
IMPORTS, LOADING = 600.0, 3600.0  # seconds in which a worker imports its libraries, and loads or downloads a base
START = 180.0  # seconds for a cluster to start or to let this process join
SILENT = 120.0  # seconds without a message from the broker; Ray itself gives up a lost connection after 30 to 60
LONGEST = 10_000  # bytes that are read of what the broker wrote
END, LEAVE = 20.0, 5.0  # seconds for a local cluster to end, and to leave another's
# Workers need these: gated bases, and clusters that ask for a token or a certificate (whose key is in a file).
OF_JOINED = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_TLS_SERVER_KEY")
KEPT = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", *OF_JOINED)
OF_A_CLUSTER = re.compile("RAY_[A-Z]")  # such as RAY_ADDRESS; in Ray's own settings small letters follow
PLAIN = ("PATH", "HOME", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR", "VIRTUAL_ENV", "USER", "PWD")  # never secret
GONE = "; finished trials are kept: {first}run the same command again to continue"


class RayPool:
    """
    Args:
        workers: how many. "auto": one on each GPU of the cluster, also on those that come later; one on a CPU.
        address: of the cluster to join; None for a cluster of this machine alone, which ends with the pool.
        timeout: seconds without an event after which a worker is ended and replaced; at least an hour while it loads.
        note: called with lines for the user.

    Raises:
        UsageError: Ray is not installed.
        WorkerError: the cluster cannot be joined.
    """

    def __init__(
        self, *, workers: int | Literal["auto"], address: str | None, timeout: float, note: Callable[[str], object]
    ) -> None:
        if find_spec("ray") is None:
            raise UsageError("workers: more than one worker needs Ray: pip install 'peftsweep[ray]'")
        if address is not None:
            check_answers(address)
        elif left_out := proxies_with_passwords(os.environ):
            note(
                f"workers do not get {', '.join(left_out)}, because it contains a password; download the base "
                "beforehand, or set a proxy without one"
            )
        self._note, self._address = note, address
        note(f"workers: {'starting Ray on this machine' if address is None else f'joining {self._cluster()}'}")
        self._size = 0
        self._nodes: dict[int, str] = {}
        self._free: set[int] = set()
        self._came = False  # whether any worker has come so far
        self._over: WorkerError | None = None  # why there will be no more answers
        self._notes: list[str] = []  # that came after an answer, and are about what follows from it
        self._calls: dict[int, Call] = {}  # each worker's, under way
        self._kept: dict[int, tuple[str, object]] = {}  # what the broker keeps, by identity
        self._underway: set[str] = set()  # keys of what it is storing in the cluster
        self._silence = 0.0  # seconds of waiting, one after the other, in which the broker has sent nothing
        self._pipe, theirs = Pipe()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (`shutdown` closes it)
        words = [sys.executable, "-P", str(BROKER), str(theirs.fileno())]
        # Of a session of its own, it gets no signals from the terminal: the sweep decides when to stop.
        self._broker = subprocess.Popen(
            words,
            env=environment(os.environ, address),
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
        )
        theirs.close()
        try:
            self._size = self._start(None if workers == "auto" else workers, timeout)
        except BaseException:
            self.shutdown()
            raise

    def _start(self, workers: int | None, timeout: float) -> int:
        options = {"workers": workers, "limits": limits(timeout), "version": __version__, "address": self._address}
        options["most_threads"] = allowed_threads(os.environ)
        with suppress(ConnectionError):  # `_receive` will say that the broker is gone
            self._pipe.send(options)
        while self._pipe.poll(START):
            match self._receive():
                case "ready", size, _:
                    return size
                case "note", _, text:
                    self._note(text)
        raise WorkerError(f"{self._cluster()} did not answer within {START:.0f} s")

    def _cluster(self) -> str:
        return "Ray" if self._address is None else f"the Ray cluster at {quoted(self._address)}"

    def _receive(self) -> tuple[str, int, Any]:
        """
        Raises:
            WorkerError: the broker or the cluster is gone.
        """
        try:
            kind, number, value = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise self._gone(self._last_words()) from error
        if kind == "over":
            raise WorkerError(f"no worker is left; the last was lost: {value}{GONE.format(first='')}")
        if kind == "broken":
            raise self._gone(value)
        return kind, number, value

    def _gone(self, why: str) -> WorkerError:
        """A cluster from which no worker ever came can hardly be used. Any other has gone."""
        first = "start Ray, then " if self._address is not None else ""
        fate = f"is gone: {why}{GONE.format(first=first)}" if self._came else f"cannot be used: {why}"
        return WorkerError(f"{self._cluster()} {fate}")

    def _last_words(self) -> str:
        """Why the broker ended, if it could not send it."""
        with suppress(subprocess.TimeoutExpired):
            self._broker.wait(PATIENCE)
        said = os.pread(self._said.fileno(), LONGEST, max(0, os.fstat(self._said.fileno()).st_size - LONGEST))
        return last_words(said.decode(errors="replace")) or f"its process ended with status {self._broker.returncode}"

    def size(self) -> int:
        return max(self._size, len(self._nodes))

    def free(self) -> Sequence[int]:
        return sorted(self._free)

    def node(self, worker: int) -> str | None:
        return self._nodes.get(worker)

    def call(self, worker: int, name: Call, *arguments: Any) -> None:
        if name == "advance":
            arguments += (_landmark(*arguments),)
        sent = [self._key(each) if isinstance(each, WorkerSpec) else dumped(each) for each in arguments]
        self._free.discard(worker)
        self._calls[worker] = name
        self._send("call", (worker, name, sent))

    def _key(self, spec: WorkerSpec) -> str:
        """The key of a study's specification, which is sent once."""
        if id(spec) not in self._kept:
            key = f"spec {len(self._kept)}"
            self._send("keep", (key, with_method(spec)))
            self._underway.add(key)
            self._kept[id(spec)] = key, spec  # holding it keeps its identity
        return self._kept[id(spec)][0]

    def _send(self, what: str, value: object) -> None:
        with suppress(ConnectionError):  # `wait` will say that the broker is gone
            self._pipe.send((what, value))

    def wait(self, seconds: float) -> Sequence[Answer | Failed | Lost]:
        while self._notes:
            self._note(self._notes.pop(0))
        if self._over is not None:
            raise self._over
        answers: list[Answer | Failed | Lost] = []
        until = time.monotonic() + seconds
        while self._comes(0 if answers else max(0, until - time.monotonic())):
            try:
                kind, worker, value = self._receive()
            except WorkerError as error:
                if not answers:
                    raise
                self._over = error  # first what has been answered
                break
            if kind == "note":
                self._notes.append(value) if answers else self._note(value)
            elif kind == "size":
                self._size = worker
            elif kind == "kept":
                self._underway.remove(value)
            elif kind == "hello":
                self._nodes[worker] = value
                self._free.add(worker)
                self._came = True
                break  # somebody may have waited for it
            elif kind == "lost":
                self._nodes.pop(worker, None)
                self._free.discard(worker)
                if self._calls.pop(worker, None) is not None:
                    answers.append(Lost(worker, value))
            elif kind != "alive":
                name, found = self._calls.pop(worker), ForkingPickler.loads(value)
                if name == "close":
                    self._free.add(worker)
                answers.append(Answer(worker, found) if kind == "answer" else Failed(worker, found))
        return answers

    def _comes(self, seconds: float) -> bool:
        """Whether the broker sends a message within some seconds.

        Raises:
            WorkerError: it has been silent for too long, so a call of Ray hangs. Only waiting counts: while this
                process does something else, or is stopped, messages gather in the pipe.
        """
        if self._pipe.poll(seconds):
            self._silence = 0.0
            return True
        self._silence += seconds
        limit = LOADING if self._underway else SILENT
        if self._silence > limit:
            raise self._gone(f"it has not answered for {limit:.0f} s")
        return False

    def shutdown(self) -> None:
        self._pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._broker.wait(END if self._address is None else LEAVE)
        end_session(self._broker.pid)  # Ray's processes, too: a broker that was killed has left some
        self._broker.wait(PATIENCE)
        self._said.close()


def limits(timeout: float) -> dict[str, float]:
    """Seconds in which a worker must answer a call or make progress, by the call's name.

    Args:
        timeout: see `RayPool`.
    """
    loading, others = dict.fromkeys(("load", "build"), max(LOADING, timeout)), ("advance", "close")
    return {"hello": IMPORTS, **loading, **dict.fromkeys(others, timeout)}


def _landmark(commands: Sequence[Command]) -> Landmark | None:
    """What shows a worker whether it sees the study's folder; None if no trial is started."""
    folders = [trial.folder for command in commands if isinstance(command, StartTrials) for trial in command.trials]
    return Landmark.of(folders[0].parent / OWNER) if folders else None


def with_method(spec: WorkerSpec) -> bytes:
    """The specification and its method, because other processes have not registered the user's own methods.

    Raises:
        UsageError: another process cannot import the method.
    """
    method = METHODS[spec.config.method]
    check_importable(method, in_script=False)
    return dumped((method, spec))


def environment(variables: Mapping[str, str], address: str | None) -> dict[str, str]:
    """The environment of the broker and of a local cluster: no passwords, no addresses of databases and trackers.

    Args:
        address: of the cluster to join.
    """
    kept = {name: value for name, value in variables.items() if name in PLAIN or _is_harmless(name, value)}
    kept["PYTHONPATH"] = os.pathsep.join(str(Path(folder).absolute()) for folder in sys.path)
    if address is None:  # what is said of another cluster does not hold for this one
        kept = {name: value for name, value in kept.items() if not OF_A_CLUSTER.match(name)}
        kept |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    kept |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    joined = None if address is None else resolved(address, variables)
    if joined is None or joined.removeprefix("ray://").startswith(("127.", "localhost:", "[::1]")):
        # Otherwise Ray replaces the loopback address by the machine's outward one, and listens there.
        kept["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return kept


def proxies_with_passwords(variables: Mapping[str, str]) -> list[str]:
    """Variables that workers of a local cluster do not get, and may need to download a base."""
    return [
        name for name, value in variables.items() if name.lower().endswith("_proxy") and not _is_harmless(name, value)
    ]


def _is_harmless(name: str, value: str) -> bool:
    if name in KEPT:
        return True
    ours = name.startswith(("PEFTSWEEP_STORAGE", "PG", "MLFLOW_", "_MLFLOW_"))
    return not ours and not means_secret(name, single_value=True) and masked(value) == value
