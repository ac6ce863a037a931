"""A worker in its own process gives the same results as one in this process; a signal or its death loses nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from peftsweep.config import SPECS, MethodSpec
from peftsweep.config.hyperparameters.lora import LoraHyperparameters
from peftsweep.engine import Command, Event, Verdicts
from peftsweep.errors import ModelError, UsageError, WorkerError
from peftsweep.methods import METHODS, register
from peftsweep.methods.lora import Lora
from peftsweep.models import BaseInfo
from peftsweep.progress import Silent
from peftsweep.system.signals import ENDING, Stopped
from peftsweep.workers.spawned_worker import SpawnedWorker
from peftsweep.workers.worker import keep_compiled_code
from tests.studies import LABELS, Home, home, write
from tests.tiny import tiny_rows
from tests.troubled_methods import Broken, Cramped, Halting


@pytest.fixture
def here(tmp_path: Path) -> Home:
    return home(tmp_path / "home")


@pytest.fixture(autouse=True)
def own_methods() -> Iterator[None]:
    own = (Cramped, Halting, Broken)
    for method in own:
        register(method)
    yield
    for method in own:
        del METHODS[method.name], SPECS[method.name]


class Heard(Silent):
    """Progress that remembers notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


TIMES = {"began", "ended", "seconds", "pauses"}


def untimed(value: Any) -> Any:
    """The value without its times, which differ from run to run."""
    if isinstance(value, dict):
        return {key: untimed(each) for key, each in value.items() if key not in {*TIMES, "at"}}
    return [untimed(each) for each in value] if isinstance(value, list) else value


def results_of(here: Home, result: Any) -> tuple[Any, Any, dict[str, bytes]]:
    """A study's trials, its test scores, and the bytes of all adapters, predictions and reports."""
    trials = [
        (trial.number, trial.state, trial.params, trial.values, trial.intermediate_values, untimed(trial.user_attrs))
        for trial in result.study.trials
    ]
    root = here.folder / "artifacts"
    files = {
        str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("trial-*/**/*")) if file.is_file()
    }
    return trials, untimed(result.study.user_attrs.get("test")), files


def forget(here: Home) -> None:
    """Remove the study, so that it can be run anew."""
    (here.folder / "studies.db").unlink()
    shutil.rmtree(here.folder / "artifacts")


def test_a_spawned_worker_leaves_the_same_study_byte_for_byte(here: Home) -> None:
    test = write(here.folder / "test.csv", tiny_rows(LABELS, 24, 3, single="label"))
    search = {"sampler": "tpe", "trials": 6, "pruner": {"reduction": 2, "min_evals": 1}}
    study = here.study(data={"test": str(test)}, train={"epochs": 10, "evals_per_epoch": 1}, search=search)
    result = here.run(study, slots=1)
    assert result.counts == {"complete": 3, "pruned": 3}  # verdicts matter
    trials, scored, files = results_of(here, result)
    assert scored is not None
    assert any(name.endswith("adapter_model.safetensors") for name in files)
    forget(here)
    other_trials, other_scored, other_files = results_of(here, here.run(study, slots=1, start=SpawnedWorker))
    assert (trials, scored, files.keys()) == (other_trials, other_scored, other_files.keys())
    assert [name for name in files if files[name] != other_files[name]] == []


@pytest.mark.usefixtures("forked")
def test_another_process_trains_and_its_notes_arrive(
    here: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTSWEEP_TRAINED_IN", str(tmp_path / "pid"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # two threads would take one slot each
    workers: list[SpawnedWorker] = []

    def start(spec: Any) -> SpawnedWorker:
        workers.append(SpawnedWorker(spec))
        return workers[-1]

    heard = Heard()
    result = here.run(here.study(method="cramped"), trials=2, slots=2, start=start, progress=heard)
    (worker,) = workers
    assert int((tmp_path / "pid").read_text()) == worker.process.pid != os.getpid()
    assert result.counts == {"complete": 2} and result.seconds["training"] > 0
    assert any(note.startswith("memory: a step of 2 slots ") for note in heard.notes)


def struck(strike: Callable[[int], None]) -> type[SpawnedWorker]:
    """A worker whose process is struck once the study has judged six evaluations: two of three trials have ended."""

    class Struck(SpawnedWorker):
        judged = 0

        def advance(self, commands: Sequence[Command]) -> list[Event]:
            self.judged += sum(isinstance(command, Verdicts) for command in commands)
            if self.judged == 6:
                assert self.process.pid is not None
                strike(self.process.pid)
                self.judged += 1
            return super().advance(commands)

    return Struck


@pytest.mark.usefixtures("forked")
def test_a_signal_to_both_processes_stops_the_sweep_which_resumes_to_the_same_study(here: Home) -> None:
    """A service manager stops a service like this."""

    def terminate(worker: int) -> None:
        os.kill(worker, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    study = here.study()
    undisturbed = results_of(here, here.run(study, slots=2))
    forget(here)
    stopped = here.run(study, slots=2, start=struck(terminate))
    assert stopped.interrupted == signal.SIGTERM and stopped.counts == {"complete": 2, "stopped": 1}
    assert stopped.seconds["training"] > 0
    assert results_of(here, here.run(study, slots=2, start=SpawnedWorker)) == undisturbed


@pytest.mark.usefixtures("forked")
def test_a_worker_that_is_killed_gives_one_clear_error_and_the_same_command_continues(here: Home) -> None:
    study = here.study()
    undisturbed = results_of(here, here.run(study, slots=2))
    forget(here)
    said = (
        r"^the worker's process \d+ was killed by signal 9 \(.*\); finished trials are kept: run the same command again"
    )
    with pytest.raises(WorkerError, match=said):
        here.run(study, slots=2, start=struck(lambda worker: os.kill(worker, signal.SIGKILL)))
    assert results_of(here, here.run(study, slots=2, start=SpawnedWorker)) == undisturbed


@pytest.mark.usefixtures("forked")
def test_a_second_signal_ends_both_processes_during_a_step_and_the_sweep_resumes(
    here: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stuck(SpawnedWorker):
        """Gets two signals while it is in the middle of a step that does not end."""

        judged = 0

        def advance(self, commands: Sequence[Command]) -> list[Event]:
            self.judged += sum(isinstance(command, Verdicts) for command in commands)
            if self.judged == 2:
                (tmp_path / "stuck").touch()
                workers.append(self)
                for seconds in (0.5, 1.0):
                    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
            return super().advance(commands)

    monkeypatch.setenv("STUCK", str(tmp_path / "stuck"))
    workers: list[SpawnedWorker] = []
    study = here.study(method="halting")
    undisturbed = results_of(here, here.run(study, slots=1))
    forget(here)
    with pytest.raises(Stopped) as stopped:
        here.run(study, slots=1, start=Stuck)
    assert stopped.value.number == signal.SIGINT
    assert [worker.process.exitcode for worker in workers] == [-signal.SIGKILL]
    (tmp_path / "stuck").unlink()
    assert results_of(here, here.run(study, slots=1, start=SpawnedWorker)) == undisturbed


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_while_the_base_is_loaded_ends_both_processes_at_once(here: Home, number: int) -> None:
    class Interrupted(SpawnedWorker):
        def load(self) -> BaseInfo:
            workers.append(self)

            def strike() -> None:
                for process in (self.process.pid, os.getpid()):
                    assert process is not None
                    os.kill(process, number)

            threading.Timer(0.3, strike).start()  # the other process is still importing torch
            return super().load()

    workers: list[SpawnedWorker] = []
    before = signal.signal(number, signal.default_int_handler)  # under nohup the tests ignore SIGHUP
    try:
        with pytest.raises(Stopped) as stopped:
            here.run(here.study(), start=Interrupted)
    finally:
        signal.signal(number, before)
    assert stopped.value.number == number and stopped.value.__context__ is None
    assert workers[0].process.exitcode == -signal.SIGKILL  # `close` ended it, not the signal itself


@pytest.mark.usefixtures("forked")
def test_an_error_of_a_spawned_worker_is_the_one_that_this_process_would_raise(here: Home) -> None:
    study = here.study(data={"max_length": 4096})
    with pytest.raises(ModelError, match=r"data\.max_length: 4096 is above") as raised:
        here.run(study, start=SpawnedWorker)
    (note,) = raised.value.__notes__
    assert re.search(r"compatibility\.py.*, in check_fit", note)


def test_a_method_that_another_process_cannot_import_is_refused(here: Home) -> None:
    class Local(Lora):
        spec = MethodSpec("local", LoraHyperparameters)

    register(Local)
    try:
        with pytest.raises(
            UsageError, match=r"method local: another process cannot import tests\.test_worker\..*Local;"
        ):
            here.run(here.study(method="local"), start=SpawnedWorker)
    finally:
        del METHODS["local"], SPECS["local"]


@pytest.mark.usefixtures("forked")
def test_an_error_that_cannot_be_sent_arrives_as_text(here: Home) -> None:
    with pytest.raises(RuntimeError, match=r"^UnsendableError: this and that\n") as raised:
        here.run(here.study(method="broken"), start=SpawnedWorker)
    (note,) = raised.value.__notes__
    assert re.search(r"troubled_methods\.py.*, in layer", note)


def test_compiled_code_is_kept_in_the_cache_unless_the_user_has_chosen_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    monkeypatch.setenv("PEFTSWEEP_CACHE", str(tmp_path / "ours"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "theirs"))
    keep_compiled_code()
    assert cache_dir() == str(tmp_path / "theirs")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    keep_compiled_code()
    assert cache_dir() == str(tmp_path / "ours" / "compiled")
