"""How do tests run hundreds of commands without importing torch for each of them?

A server imports the libraries once and forks a process for each command. `Program` is a `subprocess.Popen` whose
process comes from there: it has its own streams, folder, environment, arguments and signals, and is a child of the
test's process. A command whose environment would change the libraries starts a new Python instead.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import logging
import multiprocessing.util
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

# Thresholds of the garbage collector: by default it takes a twentieth of the tests' time, and finds little.
SELDOM = (100_000, 50, 100)
ROOT = Path(__file__).parents[1]
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
# Variables that are read when a command runs. Libraries read others at import, which is before the fork.
READ_LATE = {"COLUMNS", "HF_TOKEN", "MLFLOW_TRACKING_URI", "PATH", "PGPASSWORD", "PYTEST_CURRENT_TEST", "TMPDIR"}
READ_LATE |= {
    "CUDA_VISIBLE_DEVICES",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
    "_MLFLOW_TELEMETRY_SESSION_ID",
}
OF_OTHERS = ("PEFTSWEEP_", "RAY_")  # read by no library at import: a command leaves Ray to a new process


class Program(subprocess.Popen[str]):
    """`python -m module …`, `python -c code …` or `python SCRIPT …`, forked from a process with the libraries.

    Args:
        words: what follows `python`.
        env: changes to the environment of the tests; None removes a variable.
        fresh: always start a new Python.
    """

    def __init__(
        self,
        words: Sequence[str],
        cwd: Path,
        env: Mapping[str, str | None] | None = None,
        *,
        fresh: bool = False,
        **options: Any,
    ) -> None:
        self.fresh = fresh or sys.platform != "linux" or "--debug" in words
        changed = os.environ | {"PYTHONPATH": python_path()} | (env or {})
        self.words, self.environment = list(words), {k: v for k, v in changed.items() if v is not None}
        super().__init__(
            [sys.executable, *words],
            cwd=cwd,
            env=self.environment,
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
        )

    def _execute_child(self, *given: Any) -> None:
        if self.fresh or not _known(self.environment):
            super()._execute_child(*given)  # type: ignore[misc]
            return
        cwd, pipes = given[5], given[10:16]  # both ends of stdin, stdout, stderr
        streams = [pipes[0], pipes[3], pipes[5]]
        streams = [own if own >= 0 else inherited for inherited, own in enumerate(streams)]
        self.pid = _forked(self.words, str(cwd), self.environment, dict(enumerate(streams)))
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def spawn(path: bytes, words: Sequence[str], inherited: Sequence[int]) -> int:
    """Replace `multiprocessing.util.spawnv_passfds`: fork where `multiprocessing` would start a new Python."""
    environment = os.environ | {"PYTHONPATH": python_path()}
    if sys.platform != "linux" or "--multiprocessing-fork" not in words or not _known(environment):
        return _spawn(path, words, inherited)
    files = {number: number for number in (0, 1, 2, *inherited)}
    return _forked(words[words.index("-c") :], str(Path.cwd()), environment, files)


_spawn = multiprocessing.util.spawnv_passfds


def _forked(words: Sequence[str], cwd: str, env: Mapping[str, str], files: Mapping[int, int]) -> int:
    """Fork a process and return its id.

    Args:
        files: file descriptors here, by their number in the new process.
    """
    ignored = [number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN]
    ignored = [
        number for number in ignored if number not in (signal.SIGPIPE, signal.SIGXFSZ)
    ]  # Python ignores these by itself
    blocked = list(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    request = {"words": words, "cwd": cwd, "env": env, "ignored": ignored, "blocked": blocked, "files": list(files)}
    return _server().fork(request, list(files.values()))


def python_path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def _known(environment: Mapping[str, str]) -> bool:
    """Whether the imported libraries would be the same in that environment."""
    theirs = _server().environment
    own = {
        name: theirs[name] for name in theirs.keys() - _server().given.keys()
    }  # the program sets these if nobody did
    ours = own | environment
    differ = {name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)}
    return all(name in READ_LATE or name.startswith(OF_OTHERS) for name in differ)


class _Server:
    def __init__(self) -> None:
        # Leave out what this process set for MLflow, because importing the program in the server sets it again.
        self.given = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | {
            "PYTHONPATH": python_path()
        }
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The server forks twice. When the process in between ends, its child becomes a child of this 'subreaper'.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        words = [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())]
        self.process = subprocess.Popen(words, cwd=ROOT, env=self.given, pass_fds=[theirs.fileno()])
        theirs.close()
        self.environment: dict[str, str] = json.loads(self.socket.recv(2**20))
        atexit.register(self.close)

    def close(self) -> None:
        """End the server."""
        self.socket.close()
        self.process.wait()

    def fork(self, request: Mapping[str, Any], streams: Sequence[int]) -> int:
        socket.send_fds(self.socket, [json.dumps(request).encode()], streams)
        answer = self.socket.recv(64)
        assert answer, "the server has ended"
        return int(answer)


@cache
def _server() -> _Server:
    return _Server()


# The server's side ----------------------------------------------------------------------------------------------------


def _imports() -> set[str]:
    """The modules that any file of the package imports, at its top or in a function."""
    found = set()
    for file in (ROOT / "peftsweep").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def _import_all() -> None:
    """Import all of them as the program does: quietly, and without MLflow's telemetry, which is decided at import."""
    from peftsweep.cli import quiet
    from peftsweep.tracking import mlflow_logs

    with warnings.catch_warnings():
        quiet()
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        mlflow_logs.silence()
        for name in sorted(_imports()):
            try:
                importlib.import_module(name)
            except ImportError:
                continue  # a name inside a module, or a package that is not installed
        logging.disable(logging.NOTSET)
    assert threading.active_count() == 1, f"a fork would lose threads: {threading.enumerate()}"


def _serve(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork for each request. Returns the request in each new process, and None in the server at the end."""
    while True:
        body, streams, _, _ = socket.recv_fds(connection, 2**20, 16)
        if not body:
            return None
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            between, pid = os.getpid(), os.fork()
            if pid == 0:
                os.close(reading), os.close(writing)
                while os.getppid() == between:
                    time.sleep(0.001)
                return json.loads(body), streams
            os.write(writing, str(pid).encode())
            os._exit(0)
        os.waitpid(between, 0)  # only now is the new process a child of the one that asked for it
        connection.send(os.read(reading, 64))
        for each in (reading, writing, *streams):
            os.close(each)


def _become(request: Mapping[str, Any], streams: Sequence[int]) -> None:
    """Run the command as in a Python that was just started."""
    free = max(*streams, *request["files"]) + 1
    copies = [fcntl.fcntl(stream, fcntl.F_DUPFD, free) for stream in streams]
    os.closerange(3, free)
    for number, copy in zip(request["files"], copies, strict=True):
        os.dup2(copy, number)
        os.close(copy)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        _open(number, name)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    tempfile.tempdir = None  # so that TMPDIR is read again
    kind, *words = request["words"]
    if kind == "-m":
        sys.path[0], sys.argv = str(Path.cwd()), words
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        what, sys.path[0], sys.argv = words[0], "", ["-c", *words[1:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), main.__dict__)
    else:
        sys.path[0], sys.argv = str(Path(kind).absolute().parent), [kind, *words]
        runpy.run_path(kind, run_name="__main__")


def _open(number: int, name: str) -> None:
    """Open the Python stream again, because pipes, files and terminals differ in buffering."""
    like = getattr(sys, name)
    opened = open(  # noqa: SIM115
        number, "w" if number else "r", encoding=like.encoding, errors=like.errors, closefd=False
    )
    if number:
        lines = os.isatty(number) or (name == "stderr" and like.line_buffering)
        opened.reconfigure(line_buffering=lines, write_through=like.write_through)
    setattr(sys, name, opened)
    setattr(sys, f"__{name}__", opened)


def _ran(request: Mapping[str, Any], streams: Sequence[int]) -> int:
    """Run the command. Returns its status, or minus the number of the signal that ends it."""
    try:
        _become(request, streams)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(*sys.exc_info())
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _end(status: int) -> None:
    """Wait for threads, run exit handlers, flush the streams and end.

    If a stream cannot be flushed, Python ends as usual. Otherwise skip its usual end, which frees every object of
    every library one by one: this copies all their pages and takes longer than most commands.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
        if status < 0:
            signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest; this process ends when pytest does
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        gc.disable()  # imports create no garbage
        _import_all()
        asked.send(json.dumps(dict(os.environ)).encode())
        gc.freeze()  # so that forked processes share these pages
        gc.set_threshold(*SELDOM)
        gc.enable()
        forked = _serve(asked)
    if forked is not None:
        _end(_ran(*forked))
