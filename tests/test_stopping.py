"""`status` tells a sweep that runs from one that ended or died, and `stop` ends one from another process."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

import peftsweep
from peftsweep import sweep, trial_state
from peftsweep.engine import Command, Event
from peftsweep.errors import PeftsweepError, UsageError, WorkerError
from peftsweep.models import BaseInfo
from peftsweep.progress import status_table
from peftsweep.storage import StopRequest, Studies, SweepRecord, WorkerRecord, sqlite, write_study
from peftsweep.study import stopping
from peftsweep.study.status_rows import status
from peftsweep.sweep import heartbeat
from peftsweep.sweep.run_study import run_together
from peftsweep.sweep_state import SweepState
from peftsweep.system.signals import Stopped
from peftsweep.workers import Answer, Failed, LocalWorker, Lost
from tests.pools import TurnsPool, at
from tests.stored import add_study, add_trial
from tests.studies import Home, home, until
from tests.test_driving import DiesAt, Heard, run_on, scores
from tests.test_progress import Terminal

LONG: dict[str, Any] = {"epochs": 300, "evals_per_epoch": 1, "batch_size": 4}


@pytest.fixture
def here(tmp_path: Path) -> Home:
    return home(tmp_path / "home")


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps write a heartbeat and look for requests all the time."""
    monkeypatch.setattr(heartbeat, "BEAT", 0.0)
    monkeypatch.setattr(heartbeat, "LOOK", 0.0)
    monkeypatch.setattr(stopping, "LOOK", 0.05)


def ask(place: Home, study: str, trial: int | None = None, token: str | None = None) -> None:
    """Leave a request for the sweep that runs a study, or for one with another token."""
    found = Studies(place.storage).load(study)
    assert found.record.sweep is not None
    found.ask_to_stop(StopRequest(token=token or found.record.sweep.token, trial=trial, by="a person"))


def record(place: Home, study: str = "small") -> SweepRecord:
    found = Studies(place.storage).load(study).record.sweep
    assert found is not None
    return found


# The record ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("eager")
def test_a_sweep_records_its_process_its_workers_and_in_the_end_that_it_is_done(here: Home) -> None:
    seen: list[SweepRecord] = []
    watch = at(7, lambda: seen.append(record(here)))
    run_on(3, here, here.study(search={"trials": 5}, train={"epochs": 6, "evals_per_epoch": 1}), dies=watch)
    (during,) = seen
    assert (during.state, during.pid, during.process) == (
        "running",
        os.getpid(),
        f"process {os.getpid()} on {during.host}",
    )
    assert [(worker.number, worker.node, worker.device, worker.slots) for worker in during.workers] == [
        (0, "here", "cpu", 1),
        (1, "there", "cpu", 1),
        (2, "here", "cpu", 1),
    ]
    assert sorted(trial for worker in during.workers for trial in worker.trials) == [0, 1, 2]
    assert all(during.began <= worker.since <= during.heartbeat for worker in during.workers)
    ended = record(here)
    assert (ended.state, ended.workers, ended.token) == ("done", [], during.token)


@pytest.mark.usefixtures("eager")
def test_a_worker_that_takes_the_place_of_a_lost_one_is_recorded(here: Home) -> None:
    seen: list[list[int]] = []

    class Dying(DiesAt):
        def __call__(self, worker: int, events: Sequence[Event]) -> str | None:
            seen.append([each.number for each in record(here).workers])
            return super().__call__(worker, events)

    run_on(2, here, here.study(train={"epochs": 6, "evals_per_epoch": 1}), dies=Dying(3))
    assert [0, 1] in seen and any(2 in numbers and len(numbers) == 2 for numbers in seen)


def test_a_heartbeat_comes_every_ten_seconds_and_when_workers_come_or_go(here: Home) -> None:
    """The record is written a few times, though hundreds of rounds pass."""
    beats: list[int] = []

    def dies(worker: int, events: Sequence[Event]) -> str | None:
        beats.append(record(here).heartbeat)
        return None

    run_on(2, here, here.study(train={"epochs": 12, "evals_per_epoch": 2}), dies=dies)
    assert len(beats) > 50 and len(set(beats)) <= 6 + (beats[-1] - beats[0]) / 10_000


def test_a_study_that_is_done_says_so_while_others_go_on(here: Home) -> None:
    states: list[set[str]] = []

    def dies(worker: int, events: Sequence[Event]) -> str | None:
        states.append({record(here, name).state for name in ("one", "two")})
        return None

    one = here.study("one", search={"trials": 2}, train={"epochs": 1, "evals_per_epoch": 1})
    two = here.study("two", search={"trials": 2}, train={"epochs": 8})
    run_on(2, here, one, two, dies=dies)
    assert states[0] == {"running"} and states[-1] == {"running", "done"}


def test_a_sweep_that_an_error_or_a_signal_ends_says_so(here: Home) -> None:
    study = here.study()
    with pytest.raises(WorkerError):
        run_on(1, here, study, dies=DiesAt(3), replaced=False)
    assert record(here).state == "failed"
    (result,) = run_on(1, here, study, dies=at(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert result.interrupted == signal.SIGTERM
    assert (record(here).state, record(here).reason) == ("stopped", "SIGTERM")
    (late,) = run_on(1, here, study, timeout=0)
    assert "stopped" not in late.counts and (record(here).state, record(here).reason) == (
        "stopped",
        "the time limit (--timeout)",
    )
    run_on(1, here, study)
    assert record(here).state == "done"


# `status` -----------------------------------------------------------------------------------------------------------

WORKER = WorkerRecord(number=0, node="a", device="cuda:1", slots=4, rate=812.25, since=1_000, trials=[3, 5])


def stored_sweep(**changes: Any) -> SweepRecord:
    found = {
        "token": "1",
        "state": SweepState.RUNNING,
        "host": "far.example",
        "pid": 12,
        "began": 1,
        "workers": [WORKER],
    }
    return SweepRecord(**found | {"heartbeat": int(1000 * time.time())} | changes)


@pytest.fixture
def url(tmp_path: Path) -> str:
    study = add_study(f"sqlite:///{tmp_path}/studies.db", "one", total=8)
    add_trial(study, 0.5)
    study.ask()
    return f"sqlite:///{tmp_path}/studies.db"


def row_of(url: str, **changes: Any) -> dict[str, Any]:
    write_study(Studies(url).load("one"), sweep=stored_sweep(**changes))
    (row,) = status(url)
    return row


def lock_and_note(url: str, study: str = "one") -> tuple[Path, Path]:
    lock = Path(f"{url.removeprefix('sqlite:///')}.{study}.lock")
    return lock, Path(f"{lock}.holder")


def held_far_away(url: str, age: float = 0.0) -> None:
    """A process of a machine whose locks are not seen here holds the study, and showed so many seconds ago that it
    lives."""
    lock, holder = lock_and_note(url)
    lock.touch()
    holder.write_text("process 12 on far.example since 2026-01-31 12:00\n")
    os.utime(holder, (time.time() - age,) * 2)


def test_on_another_machine_signs_of_life_tell_a_sweep_that_runs_from_one_that_died(url: str) -> None:
    held_far_away(url, age=50)
    row = row_of(url, heartbeat=1)  # maybe it loads a base since then
    assert (row["state"], row["running"], row["stopped"], len(row["workers"])) == ("running", 1, 0, 1)
    worker = row["workers"][0]
    assert (worker["device"], worker["since"], worker["trials"]) == ("cuda:1", "1970-01-01T00:00:01Z", [3, 5])
    held_far_away(url, age=61)
    row = row_of(url)
    assert (row["state"], row["running"], row["stopped"], row["workers"]) == ("died", 0, 1, [])


def test_trials_that_wait_for_a_worker_of_their_running_sweep_do_not_run(url: str) -> None:
    """The workers load the base, or are with another study of the command."""
    held_far_away(url)
    row = row_of(url, workers=[])
    assert (row["state"], row["running"], row["stopped"]) == ("running", 0, 1)
    assert not any("to resume" in line for line in shown(row))


def test_a_sweep_shows_that_it_lives_while_it_loads_a_base(here: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BEAT", 0.01)
    _, holder = lock_and_note(here.storage, "small")

    class Loads(LocalWorker):
        def load(self) -> BaseInfo:
            os.utime(holder, (1, 1))
            end = time.monotonic() + 20
            while holder.stat().st_mtime == 1:
                assert time.monotonic() < end
                time.sleep(0.01)
            return super().load()

    assert here.run(here.study(), start=Loads).counts == {"complete": 3}
    assert not holder.exists()


def test_on_this_machine_the_lock_tells_it_at_once(url: str) -> None:
    host = os.uname().nodename
    assert row_of(url, host=host)["state"] == "died"
    with Studies(url).lease("one"):
        assert row_of(url, host=host, heartbeat=1)["state"] == "running"  # maybe its first step takes that long
    with Studies(url).lease("one", "sync"):
        assert row_of(url, host=host)["state"] == "died"


def test_a_study_of_an_earlier_version_has_no_state(url: str) -> None:
    (row,) = status(url)
    assert (row["state"], row["heartbeat"], row["process"], row["workers"], row["stopped"]) == (None, None, None, [], 1)
    with Studies(url).lease("one"):
        (row,) = status(url)
    assert (row["state"], row["running"]) == ("running", 1)


def shown(row: dict[str, Any]) -> list[str]:
    stream = Terminal()
    status_table([row], stream)
    return [line.rstrip() for line in stream.getvalue().splitlines() if line.strip()]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "dumb")


def test_status_shows_each_worker_of_a_running_sweep(url: str) -> None:
    held_far_away(url)
    now = time.time()
    ours = WORKER.model_copy(update={"since": int(1000 * (now - 9030))})
    mine = ours.model_copy(update={"number": 11, "node": None, "device": "cpu", "trials": [], "rate": 0.0})
    head, _, done, process, *workers = shown(row_of(url, heartbeat=int(1000 * (now - 4)), workers=[ours, mine]))
    assert head.split()[:2] == ["study", "sweep"] and re.fullmatch(r"1 of \d trials done · 1 running", done)
    assert process in {f"one: process 12 on far.example, last heard of {age}s ago" for age in (4, 5, 6)}
    assert workers == [
        "  worker 0    2 of 4 slots   812 samples/s   cuda:1 of a   for 2h30m",
        "  worker 11   0 of 4 slots   0 samples/s     cpu           for 2h30m",
    ]
    many = [WORKER.model_copy(update={"number": number}) for number in range(448)]
    lines = shown(row_of(url, workers=many))
    assert len(lines) < 40 and lines[-1] == "  and 416 more workers; --json has all"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heartbeat": 1_000}, r"its sweep died (process 12 on far.example, last heard of "),
        ({"state": "stopped", "reason": "SIGTERM"}, "stopped by SIGTERM"),
        ({"state": "failed"}, "an error ended its sweep"),
        ({"state": "failed", "reason": "Ray is gone"}, "an error ended its sweep: Ray is gone"),
    ],
)
def test_status_says_why_a_sweep_ended_early_and_how_to_resume_it(url: str, changes: dict[str, Any], said: str) -> None:
    *_, line = shown(row_of(url, **changes))
    assert line.startswith(f"one: {said}") and line.endswith(": peftsweep run --study one")


# `stop` -------------------------------------------------------------------------------------------------------------


class Stopper:
    """Calls `stop` in another thread, as another process would, and keeps what it returned or raised."""

    def __init__(self, place: Home, study: str, trial: int | None = None) -> None:
        self.said: str | PeftsweepError = ""
        self.others: list[str | None] = []  # states of all studies when it was done
        self.thread = threading.Thread(target=self._stop, args=(place, study, trial))

    def _stop(self, place: Home, study: str, trial: int | None) -> None:
        try:
            self.said = stopping.stop(study, trial, place.storage, timeout=60)
        except PeftsweepError as error:
            self.said = error
        self.others = [row["state"] for row in status(place.storage)]

    def begin(self) -> None:
        """Start, and return once the request is there or was refused."""
        self.thread.start()
        self.thread.join(2.0)

    def end(self) -> str | PeftsweepError:
        self.thread.join(120)
        return self.said


@pytest.mark.usefixtures("eager")
def test_a_stopped_study_ends_alone_and_resumes_to_the_scores_of_an_undisturbed_one(tmp_path: Path) -> None:
    never, here = home(tmp_path / "never"), home(tmp_path / "home")
    changes: dict[str, Any] = {"search": {"trials": 4}, "model": {"id": str(never.folder / "base")}}
    changes["train"] = {"epochs": 4, "evals_per_epoch": 1}
    (undisturbed,) = run_on(2, never, never.study(**changes))
    heard, stopper = Heard(), Stopper(here, "small")
    small, other = here.study(**changes), here.study("other", **changes | {"train": LONG | {"epochs": 20}})
    first, second = run_on(2, here, small, other, dies=at(5, stopper.begin), progress=heard)
    said = str(stopper.end())
    assert said.startswith("study 'small': stopped; ") and said.endswith(": peftsweep run --study small")
    assert stopper.others == ["running", "stopped"]  # it does not wait for the other
    assert second.counts == {"complete": 4} and first.counts["stopped"] >= 1 and first.interrupted is None
    assert record(here).reason == f"peftsweep stop (process {os.getpid()} on {record(here).host})"
    (resumed,) = run_on(2, here, small)
    assert resumed.counts == {"complete": 4}
    assert scores(resumed) == pytest.approx(scores(undisturbed), abs=1e-4)


def test_how_a_trial_ended_is_said_once() -> None:
    ending, states = trial_state.ending, trial_state.TrialState
    assert ending(states.PRUNED, "pruned at step 63 of 189") == "pruned at step 63 of 189"
    assert ending(states.COMPLETE, "all 189 steps") == "complete, all 189 steps"


@pytest.mark.usefixtures("eager")
def test_a_stopped_trial_is_pruned_and_never_resumed_and_the_others_go_on(here: Home) -> None:
    stopper = Stopper(here, "small", 1)
    study = here.study(train={"epochs": 12, "evals_per_epoch": 1})
    (result,) = run_on(2, here, study, dies=at(5, stopper.begin))
    assert result.counts == {"complete": 2, "pruned": 1}
    pruned = result.study.trials[1]
    assert pruned.state == TrialState.PRUNED and pruned.value is not None  # so the sampler learns from it
    reason = pruned.user_attrs["reason"]
    assert reason.startswith("stopped by peftsweep stop at step ") and stopper.end() == (
        f"trial 1 of study 'small': pruned, {reason}"
    )
    assert here.checkpoints(1) == []
    run = next(run for run in here.runs() if run.data.tags.get("peftsweep.trial") == "1")
    assert (run.info.status, run.data.tags["peftsweep.reason"]) == ("KILLED", reason)


@pytest.mark.usefixtures("eager")
def test_a_trial_that_is_to_end_when_its_worker_is_lost_is_not_resumed(here: Home) -> None:
    def lose() -> str:
        ask(here, "small", 0)
        return "its machine is gone"

    (result,) = run_on(1, here, here.study(train={"epochs": 12, "evals_per_epoch": 1}), dies=at(3, lose))
    assert result.counts == {"complete": 2, "pruned": 1}
    assert result.study.trials[0].user_attrs["reason"] == "stopped by peftsweep stop before it was resumed"


@pytest.mark.usefixtures("eager")
def test_a_request_to_an_earlier_sweep_stops_no_later_one_and_is_removed(here: Home) -> None:
    def leave() -> None:
        for trial in (None, 0, 1):
            ask(here, "small", trial, token="an earlier one")

    (result,) = run_on(2, here, here.study(), dies=at(2, leave))
    assert result.counts == {"complete": 3} and record(here).state == "done"
    ask(here, "small")  # its sweep has ended
    (more,) = run_on(2, here, here.study(), trials=5)
    assert more.counts == {"complete": 5}
    attrs = more.study._storage.get_study_system_attrs(more.study._study_id)
    assert not [key for key in attrs if key.startswith("peftsweep:stop")]


def test_what_cannot_be_stopped_is_refused_with_the_reason(url: str) -> None:
    study = Studies(url).load("one")
    study.enqueue_trial({})

    def refused(trial: int | None = None, name: str = "one") -> str:
        with pytest.raises(UsageError) as error:
            stopping.stop(name, trial, url)
        return str(error.value)

    assert "no study 'two'" in refused(name="two")
    assert refused() == "study 'one' is not running: no process has it"
    for changes, why in (
        ({"state": "done"}, "it is done"),
        ({"state": "stopped"}, "it was stopped"),
        ({"heartbeat": 1}, "process 12 on far.example died without saying that it ended"),
    ):
        write_study(study, sweep=stored_sweep(**changes))
        assert refused().endswith(why)
    with Studies(url).lease("one"):
        write_study(study, sweep=stored_sweep(state="stopped"))
        assert "is being opened" in refused()
    held_far_away(url)
    write_study(study, sweep=stored_sweep())
    assert refused(9) == "study 'one' has no trial 9"
    assert refused(0) == "trial 0 of study 'one' has ended: complete"
    assert refused(2) == "trial 2 of study 'one' was enqueued and has not begun"


def test_what_ran_last_is_meant_the_sweep_or_the_retraining(url: str) -> None:
    write_study(Studies(url).load("one"), sweep=stored_sweep(state="done", began=1_000))
    write_study(add_study(url, "one/retrain"), sweep=stored_sweep(state="stopped", began=2_000))
    with pytest.raises(UsageError, match=r"^the retraining of study 'one' is not running: it was stopped$"):
        stopping.stop("one", None, url)


def test_a_sweep_that_does_not_obey_in_time_is_named(url: str) -> None:
    study = Studies(url).load("one")
    held_far_away(url)
    write_study(study, sweep=stored_sweep())
    with pytest.raises(PeftsweepError, match=r"'one' has not ended within 0 seconds.*process 12 on far\.example"):
        stopping.stop("one", None, url, timeout=0)
    left: list[StopRequest] = []
    study.take_requests("1", left.append)
    assert [request.trial for request in left] == [None]


def test_a_request_that_comes_while_others_are_taken_is_taken_next(url: str) -> None:
    study, taken = Studies(url).load("one"), list[StopRequest]()
    first, second = (StopRequest(token="1", trial=trial, by="a person") for trial in (0, 2))
    study.ask_to_stop(first)

    def take(request: StopRequest) -> None:
        taken.append(request)
        if request == first:
            study.ask_to_stop(second)

    for _ in range(3):
        study.take_requests("1", take)
    assert taken == [first, second]


@pytest.mark.usefixtures("eager")
def test_a_retraining_stops_as_a_whole(here: Home) -> None:
    study = here.study()
    here.run(study)
    stoppers = [Stopper(here, "small", 0), Stopper(here, "small")]

    class Watched(LocalWorker):
        calls = 0

        def advance(self, commands: Sequence[Command]) -> list[Event]:  # type: ignore[override]
            self.calls += 1
            if self.calls == 3:
                for stopper in stoppers:
                    stopper.begin()
            return super().advance(commands)

    options = {"storage": here.storage, "tracking_uri": here.tracking_uri, "slots": 1, "top": 1, "seeds": 3}
    result = sweep.retrain(study, start=Watched, **options)
    assert result.interrupted is None
    refusal, line = [stopper.end() for stopper in stoppers]
    assert isinstance(refusal, UsageError) and "single seeds cannot be stopped" in str(refusal)
    said = str(line)
    assert said.startswith("the retraining of study 'small': stopped; ") and said.endswith(
        ": peftsweep retrain --study small"
    )
    (row,) = status(here.storage)
    assert (row["state"], row["retrain"]["state"], row["retrain"]["done"]) == ("done", "stopped", 0)
    sweep.retrain(study, **options)
    (row,) = status(here.storage)
    assert (row["retrain"]["state"], row["retrain"]["done"]) == ("done", 3)


# While workers load a base ------------------------------------------------------------------------------------------


class Slow(TurnsPool):
    """Its second worker downloads a base all the time."""

    def wait(self, seconds: float) -> Sequence[Answer | Failed | Lost]:
        self.calls = deque(sorted(self.calls, key=lambda call: call[:2] == (1, "load")))
        return [] if self.calls[0][:2] == (1, "load") else super().wait(seconds)


@pytest.mark.parametrize("how", ["a signal", "peftsweep stop", "done"])
@pytest.mark.usefixtures("eager")
def test_nobody_waits_for_a_worker_that_still_loads_in_the_end(here: Home, how: str) -> None:
    does: dict[str, Any] = {"a signal": lambda: os.kill(os.getpid(), signal.SIGTERM), "done": lambda: None}
    dies = at(3, does.get(how, lambda: ask(here, "small")))
    options: Any = {"slots": 1, "storage": here.storage, "tracking_uri": here.tracking_uri}
    study = here.study(search={"trials": 4}, train={"epochs": 6, "evals_per_epoch": 1})
    (result,) = run_together([study], partial(Slow, 2, dies), **options)
    assert result.counts == ({"complete": 4} if how == "done" else {"stopped": 1})
    assert result.interrupted == (signal.SIGTERM if how == "a signal" else None)
    assert record(here).state == ("done" if how == "done" else "stopped")


def test_a_signal_while_a_later_base_is_loaded_ends_the_command_at_once(here: Home) -> None:
    class Loads(LocalWorker):
        def load(self) -> BaseInfo:
            if self.spec.config.name == "two":
                os.kill(os.getpid(), signal.SIGTERM)
                pytest.fail("the download goes on")
            return super().load()

    options: Any = {"slots": 1, "storage": here.storage, "tracking_uri": here.tracking_uri, "start": Loads}
    with pytest.raises(Stopped):
        run_together([here.study("one"), here.study("two")], **options)
    assert [record(here, name).state for name in ("one", "two")] == ["done", "stopped"]
    assert {run.info.status for run in here.runs()} == {"FINISHED"}


# The real program ---------------------------------------------------------------------------------------------------


def sweep_of(place: Home) -> SweepRecord:
    """The record, or one without workers before it is there."""
    with suppress(PeftsweepError, AssertionError):
        return record(place)
    return stored_sweep(workers=[])


def test_status_and_stop_from_another_terminal(here: Home) -> None:
    study = here.study(train=LONG, search={"trials": 2})
    words = ["run", "--study", str(study), "--slots", "1", "--set", "train.seed=3"]
    process = here.start(*words)
    until(lambda: any(worker.trials for worker in sweep_of(here).workers), process)
    (row,) = json.loads(here.call("status", "--json").stdout)
    assert (row["state"], row["process"].split()[1]) == ("running", str(process.pid))
    assert [(worker["slots"], worker["trials"]) for worker in row["workers"]] == [(1, [0])]
    one = here.call("stop", "--study", "small", "--trial", "0")
    assert (one.returncode, one.stdout.startswith("trial 0 of study 'small': pruned, ")) == (0, True), one.stderr
    whole = here.call("stop", "--study", "small")
    assert (whole.returncode, whole.stderr) == (0, "")
    assert whole.stdout.endswith(f"; to resume: {shlex.join(['peftsweep', *words])}\n")
    assert here.call("status").stdout.count("--set train.seed=3") == 1
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "; everything is kept: to resume, give the same command again" in err
    assert "small: 1 pruned, 1 stopped" in err
    assert here.call("stop", "--study", "small").returncode == 2


def test_status_says_that_a_killed_sweep_died(here: Home) -> None:
    process = here.start("run", "--study", str(here.study(train=LONG)))
    until(lambda: any(worker.trials for worker in sweep_of(here).workers), process)
    process.kill()
    process.communicate()
    (row,) = peftsweep.status(here.storage)
    assert (row["state"], row["stopped"], row["running"]) == ("died", 3, 0)
