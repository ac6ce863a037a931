"""Does a command that was forked behave like a Python that was just started, to itself and to others?"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.fork_server import Program
from tests.studies import Home

SEEN = """
import atexit, json, os, signal, sys, tempfile, threading

atexit.register(print, "at exit")
print(json.dumps({
    "words": sys.argv,
    "folder": os.getcwd(),
    "path": sys.path[0],
    "environment": dict(sorted(os.environ.items())),
    "parent": os.getppid(),
    "name": [__name__, sys.modules["__main__"].__dict__ is globals()],
    "threads": threading.active_count(),
    "temporary": tempfile.gettempdir(),
    "streams": [[s.encoding, s.errors, s.line_buffering] for s in (sys.stdin, sys.stdout, sys.stderr)],
    "files": [n for n in range(64) if os.path.exists(f"/proc/self/fd/{n}")],
    "signals": {n: str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)},
}))
print(sys.stdin.read(), file=sys.stderr)
sys.exit(3)
"""


def ran(words: list[str], folder: Path, fresh: bool, given: str = "") -> tuple[int, str, str]:
    with Program(words, folder, {"COLUMNS": "33", "TMPDIR": str(folder)}, fresh=fresh, stdin=subprocess.PIPE) as one:
        out, err = one.communicate(given, timeout=120)
    return one.returncode, out, err


def test_a_forked_process_sees_the_same_as_a_started_one(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(SEEN)
    script = str(tmp_path / "module.py")
    for words in (["-c", SEEN, "a", "caf\udce9"], ["-m", "module", "b"], ["module.py", "c"], [script, "d"]):
        forked, fresh = (ran(words, tmp_path, fresh, "given") for fresh in (False, True))
        assert fresh[0] == 3 and fresh[1].endswith("at exit\n") and fresh[2] == "given\n"
        assert forked == fresh


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_as_it_ends_any_process(tmp_path: Path, number: int) -> None:
    code = "import time; print('here', flush=True); time.sleep(60)"
    for fresh in (False, True):
        with Program(["-c", code], tmp_path, fresh=fresh) as process:
            assert process.stdout is not None and process.stdout.readline() == "here\n"
            assert process.poll() is None
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        assert process.returncode == -number and ("KeyboardInterrupt" in err) == (number == signal.SIGINT)
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)


def test_an_error_ends_it_with_a_traceback_and_status_1(tmp_path: Path) -> None:
    for fresh in (False, True):
        status, out, err = ran(["-c", "print('before'); 1 / 0"], tmp_path, fresh)
        assert (status, out) == (1, "before\n") and err.endswith("ZeroDivisionError: division by zero\n")


ENDS = {
    "a thread": "import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()",
    "registered": "import atexit, sys; atexit.register(lambda: print('late', file=sys.stderr)); print('early')",
    "a text": "import sys; print('early'); sys.exit('why')",
    "a large status": "import sys; sys.exit(258)",
    "unwritable": "import sys; sys.stdout = open('/dev/full', 'w'); print('early')",
}


@pytest.mark.parametrize("code", ENDS.values(), ids=list(ENDS))
def test_a_forked_process_ends_as_a_started_one_does(tmp_path: Path, code: str) -> None:
    forked, fresh = (ran(["-c", code], tmp_path, fresh) for fresh in (False, True))
    assert fresh != (0, "", "")
    assert forked == fresh


def test_a_forked_process_has_the_libraries_and_a_fresh_one_imports_them(tmp_path: Path) -> None:
    code = "import sys; print(*sorted({'torch', 'mlflow', 'optuna', 'transformers', 'peft'} & set(sys.modules)))"
    assert ran(["-c", code], tmp_path, fresh=False)[1] == "mlflow optuna peft torch transformers\n"
    assert ran(["-c", code], tmp_path, fresh=True)[1] == "\n"


def test_a_variable_that_libraries_read_at_import_starts_a_new_python(tmp_path: Path) -> None:
    code = "import sys; print('torch' in sys.modules)"
    for env, forked in (
        ({"PEFTSWEEP_STORAGE": "x"}, True),
        ({"RAY_ADDRESS": "x"}, True),
        ({"OMP_NUM_THREADS": "2"}, False),
        ({"HF_HOME": "x"}, False),
    ):
        with Program(["-c", code], tmp_path, env) as process:
            assert process.communicate(timeout=60)[0] == f"{forked}\n"


def look(pipe: Connection) -> None:
    blocked = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    files = sum(Path(f"/proc/self/fd/{number}").exists() for number in range(256))
    pipe.send([blocked, files, os.getppid(), Path.cwd(), sys.argv, multiprocessing.current_process().name])
    pipe.recv()


def test_a_forked_process_of_multiprocessing_sees_the_same_as_a_spawned_one(request: pytest.FixtureRequest) -> None:
    context, found = multiprocessing.get_context("spawn"), []
    resource_tracker.ensure_running()  # otherwise start() does this and unblocks signals
    for forked in (False, True):
        if forked:
            request.getfixturevalue("forked")
        ours, theirs = context.Pipe()
        process = context.Process(target=look, args=(theirs,), name="worker", daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert ours.poll(60)
        found.append(ours.recv())
        assert ("tests.fork_server" in Path(f"/proc/{process.pid}/cmdline").read_text()) == forked
        process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    assert found[0] == found[1] and found[0][0] == [signal.SIGTERM]


def test_two_run_at_once(tmp_path: Path) -> None:
    first, second = (Home(tmp_path).start("--version") for _ in range(2))
    assert first.pid != second.pid
    assert first.communicate(timeout=60) == second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0)
