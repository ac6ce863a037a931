"""SIGINT, SIGTERM and SIGHUP end a command; one file handles all signals."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from peftsweep.system.signals import ENDING, Stopped, end_group, ignore_all, number_of, stopped_by_signals
from tests.studies import ROOT


def send(number: int) -> None:
    """Send this process a signal, and return once its handler has run."""
    os.kill(os.getpid(), number)
    time.sleep(0.01)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_the_command_at_once_if_there_is_nothing_to_finish(number: int) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # under nohup the tests ignore SIGHUP
    try:
        with pytest.raises(Stopped) as caught, stopped_by_signals():
            send(number)
    finally:
        signal.signal(number, before)
    assert number_of(caught.value) == number


def test_during_a_step_the_first_signal_is_noted_and_the_second_ends_the_command() -> None:
    with stopped_by_signals() as stop:
        stop.finish_step_first = True
        send(signal.SIGTERM)
        assert stop.asked and stop.number == signal.SIGTERM
        with pytest.raises(Stopped) as caught:
            send(signal.SIGINT)
    assert number_of(caught.value) == signal.SIGINT


def test_a_signal_that_was_ignored_before_stays_ignored_and_handlers_are_restored() -> None:
    before = {number: signal.getsignal(number) for number in ENDING}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stopped_by_signals() as stop:
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) == stop.handle
            ignore_all()
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == before[signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before[signal.SIGHUP])


def test_another_thread_changes_no_handlers() -> None:
    found = []

    def run() -> None:
        with stopped_by_signals():
            ignore_all()
            found.extend(signal.getsignal(number) for number in ENDING)

    before = [signal.getsignal(number) for number in ENDING]
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == before


def test_ending_a_group_ends_all_its_processes() -> None:
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **pipes) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        end_group(process)
        assert process.wait() == -signal.SIGTERM
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"  # ended; init may not have reaped it yet


def test_signals_are_handled_in_one_file() -> None:
    importers = {
        file.relative_to(ROOT / "peftsweep").as_posix()
        for file in (ROOT / "peftsweep").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and "signal" in {alias.name for alias in node.names})
        or (isinstance(node, ast.ImportFrom) and node.module == "signal")
    }
    assert importers == {"system/signals.py"}
