"""What MLflow costs a sweep: in a file, on a server, on one that is slow or dead, and on one that never answers.

    python benchmarks/tracking.py [--quick] [--rounds 5] [--trials 4] [--epochs 1] [--minutes 8]

The sweep is the study `demo` (all-MiniLM-L6-v2, real tweets) with a fixed length: no trial is pruned, and the same
seeds give the same trials on every side. By default trials are few and short, and no round begins that would, by those
before it, end after the eighth minute; a long sweep has the smaller shares. Each side runs in a process and a
folder of its own, as a person would run it; one has a tracker that writes nothing, with which the others are compared,
round by round. Rounds take turns, so that a machine that slows down slows all of them; the figures are medians.

Figures go to stdout, a JSON object a line:

- `seconds` of the sweep, from the loaded libraries to the end, `end_seconds` of waiting for the tracker at its end.
  `drawing_seconds`, in which every side draws the page of the comparison, are not among them, nor is their `cpu`;
  `added` is the share that tracking added to the seconds, `added_to_pack` that added to the pack's, without that
  wait.
- `writer_cpu` is the processor's seconds that the tracker's own thread took, `start_cpu` those of them that went
  before its first update was there (MLflow's import, the tables of a new file), and `caller_cpu` those that telling
  the tracker took. `cpu_share` is writer and caller over all that the process took: where all cores train, it is the
  time that tracking adds, and it holds on a busy machine too. `cpu_share_after_start` is the same without the start,
  which a sweep pays once.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import peftsweep
from peftsweep.sweep import run_study
from peftsweep.sweep.publishing import redraw
from peftsweep.tracking import Tracker
from peftsweep.tracking.mlflow_server import server_command, server_environment

NOTHING = "nothing"
DELAY = 0.2  # seconds for each piece of a request on its way to the slow server


class Timed(Tracker):
    """A tracker that counts what it costs."""

    writer_cpu = start_cpu = caller_cpu = end_seconds = drawing_seconds = drawing_cpu = 0.0

    def close(self, *args: Any, **kwargs: Any) -> None:
        began = time.perf_counter()
        super().close(*args, **kwargs)
        Timed.end_seconds += time.perf_counter() - began
        if self._writer is not None and self._writer.is_alive():  # it waits for an answer still
            assert self._writer.ident is not None
            Timed.writer_cpu += time.clock_gettime(time.pthread_getcpuclockid(self._writer.ident))

    def _done(self, update: Callable[[], None]) -> bool:
        done = super()._done(update)
        Timed.start_cpu = Timed.start_cpu or time.thread_time()
        return done

    def _write(self) -> None:
        super()._write()
        if not self._sink.abandoned:
            Timed.writer_cpu += time.thread_time()


class Untold(Timed):
    """Is told everything and writes nothing."""

    def _put(self, update: object) -> None:
        pass


def counted(method: Callable[..., Any]) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        began = time.thread_time()
        try:
            return method(*args, **kwargs)
        finally:
            Timed.caller_cpu += time.thread_time() - began

    return called


for name in ("open_study", "catch_up", "start_trial", "log", "end_trial", "end_study", "store_page"):
    setattr(Timed, name, counted(getattr(Tracker, name)))


def set_aside(refresh: Callable[..., None]) -> Callable[..., None]:
    """The page of the comparison is drawn with a tracker and without: what it takes is counted by itself."""

    def called(*args: Any) -> None:
        began, cpu, told = time.perf_counter(), time.thread_time(), Timed.caller_cpu
        refresh(*args)
        Timed.drawing_seconds += time.perf_counter() - began
        Timed.drawing_cpu += time.thread_time() - cpu - (Timed.caller_cpu - told)

    return called


# Sides --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def file(folder: Path) -> Iterator[str]:
    yield f"sqlite:///{folder}/mlflow.db"


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """MLflow's own, as `peftsweep ui` starts it; on the same machine, whose cores it shares with the sweep."""
    port = free_port()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            server_command(f"sqlite:///{folder}/mlflow.db", "127.0.0.1", port),
            env=os.environ | server_environment(f"sqlite:///{folder}/mlflow.db"),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        await_health(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def await_health(port: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.2)
    raise RuntimeError("the MLflow server does not answer")


@contextlib.contextmanager
def slow(folder: Path) -> Iterator[str]:
    """A server behind a line on which every request takes so long."""
    with server(folder) as uri, socket.create_server(("127.0.0.1", 0)) as listening:
        behind = int(uri.rpartition(":")[2])
        threading.Thread(target=relay, args=(listening, behind), daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def relay(listening: socket.socket, port: int) -> None:
    with contextlib.suppress(OSError):  # closed: it is over
        while True:
            client, _ = listening.accept()
            far = socket.create_connection(("127.0.0.1", port))
            for source, target, delay in ((client, far, DELAY), (far, client, 0.0)):
                threading.Thread(target=pass_on, args=(source, target, delay), daemon=True).start()


def pass_on(source: socket.socket, target: socket.socket, delay: float) -> None:
    with contextlib.suppress(OSError):
        began = time.monotonic()
        while data := source.recv(65536):
            if time.monotonic() - began > 0.01:  # a new piece, not more of a file that is on its way
                time.sleep(delay)
            target.sendall(data)
            began = time.monotonic()
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def dead(folder: Path) -> Iterator[str]:
    yield f"http://127.0.0.1:{free_port()}"


@contextlib.contextmanager
def mute(folder: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


SIDES: dict[str, Callable[[Path], contextlib.AbstractContextManager[str]]] = {
    NOTHING: file,
    "a file": file,
    "a server": server,
    "a slow server": slow,
    "a closed port": dead,
    "a server that never answers": mute,
}


def one_side(what: str, trials: int, overrides: Sequence[str]) -> dict[str, Any]:
    """A sweep in this process and in a new folder."""
    vars(run_study)["Tracker"] = Untold if what == NOTHING else Timed
    vars(run_study)["redraw"] = set_aside(redraw)
    with tempfile.TemporaryDirectory() as temporary, SIDES[what](Path(temporary)) as uri:
        began, cpu = time.perf_counter(), time.process_time()
        result = peftsweep.run(
            "demo",
            trials=trials,
            overrides=overrides,
            storage=f"sqlite:///{temporary}/studies.db",
            tracking_uri=uri,
        )
        took = {
            "seconds": time.perf_counter() - began - Timed.drawing_seconds,
            "pack_seconds": sum(result.seconds.values()),
            "cpu": time.process_time() - cpu - Timed.drawing_cpu,
        }
    assert result.counts == {"complete": trials}, result.counts
    names = ("writer_cpu", "start_cpu", "caller_cpu", "end_seconds", "drawing_seconds")
    costs = {name: getattr(Timed, name) for name in names}
    return took | costs | {"level": bool(result.study.user_attrs["mlflow_level"])}


# Figures ------------------------------------------------------------------------------------------------------------


def measured(rounds: int, trials: int, overrides: Sequence[str], minutes: float) -> dict[str, list[dict[str, Any]]]:
    """What each side took, round by round.

    Args:
        rounds: at most.
        minutes: after which none may end, by the mean of those before it; the first one is made whatever it takes.
    """
    found: dict[str, list[dict[str, Any]]] = {what: [] for what in SIDES}
    began = time.monotonic()
    for turn in range(rounds):
        if turn and (time.monotonic() - began) * (turn + 1) / turn > 60 * minutes:
            break
        for what in SIDES:
            command = [sys.executable, __file__, "--side", what, "--trials", str(trials)]
            command += [part for override in overrides for part in ("--set", override)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            found[what].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {turn + 1}, {what}: {found[what][-1]}", file=sys.stderr, flush=True)
    return found


def figures(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Medians of each side, and of the rounds' ratios to the side that tracks nothing."""
    for what, rounds in found.items():
        row: dict[str, Any] = {"tracking": what, "rounds": len(rounds), "level": all(each["level"] for each in rounds)}
        for key in ("seconds", "pack_seconds", "end_seconds", "drawing_seconds"):
            row[key] = round(statistics.median(each[key] for each in rounds), 3)
        for key in ("cpu", "writer_cpu", "start_cpu", "caller_cpu"):
            row[key] = round(statistics.median(each[key] for each in rounds), 3)
        for key, once in (("cpu_share", 0.0), ("cpu_share_after_start", 1.0)):
            row[key] = round(statistics.median(cpu_share(each, once) for each in rounds), 5)
        if what != NOTHING:
            for key, taken in (("added", "seconds"), ("added_to_pack", "pack_seconds")):
                added = [each[taken] / base[taken] - 1 for each, base in zip(rounds, found[NOTHING], strict=True)]
                row[key] = round(statistics.median(added), 4)
                row[f"{key}_range"] = [round(min(added), 4), round(max(added), 4)]
        yield row


def cpu_share(took: Mapping[str, float], left_out: float = 0.0) -> float:
    """Of the process's seconds, those that tracking took.

    Args:
        left_out: how much of the start.
    """
    start = left_out * took["start_cpu"]
    return (took["writer_cpu"] + took["caller_cpu"] - start) / (took["cpu"] - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=8, help="no further round begins that would end later")
    parser.add_argument("--quick", action="store_true", help="one round of two short trials: to see that it works")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--set", action="append", default=[], help=argparse.SUPPRESS)
    options = parser.parse_args()
    for option in ("rounds", "trials", "epochs"):
        if getattr(options, option) < 1:
            parser.error(f"--{option}: expected a whole number of at least 1")
    if options.side:
        print(json.dumps(one_side(options.side, options.trials, options.set)), flush=True)
        return
    overrides = ["search.pruner=null", "search.sampler=random", f"train.epochs={options.epochs}"]
    rounds, trials = options.rounds, options.trials
    if options.quick:
        rounds, trials = 1, 2
        overrides += ["data.split.train=128", "data.split.validation=64"]
    machine = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "arch": platform.machine()}
    show(figure="machine", **machine, torch=torch.__version__, load=round(os.getloadavg()[0], 2))  # idle: below a half
    for row in figures(measured(rounds, trials, overrides, options.minutes)):
        show(figure="tracking", trials=trials, epochs=options.epochs, **row)


def show(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
