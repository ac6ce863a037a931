"""Several workers and several studies: trials are shared out, a lost worker's are resumed, results stay the same."""

from __future__ import annotations

import errno
import io
import itertools
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest

import peftsweep
from peftsweep.cli.study_commands import _say_time
from peftsweep.engine import Evaluated, Event, ScoreTrial, StartTrials, TrialEnded
from peftsweep.errors import ModelError, StorageError, WorkerError
from peftsweep.export import export
from peftsweep.progress import EndedTrial, PlainProgress, Silent, SweepStatus
from peftsweep.sweep import SweepResult, unfit_nodes
from peftsweep.sweep.run_study import run_together
from peftsweep.workers import Answer, Call, Failed, Lost
from tests.pools import Dies, TurnsPool, at, never
from tests.studies import LABELS, Home, home, struck
from tests.tiny import tiny_rows, write


@pytest.fixture
def here(tmp_path: Path) -> Home:
    return home(tmp_path / "home")


class Heard(Silent):
    """Progress that remembers warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def run_on(workers: int, place: Home, *studies: Path, dies: Dies = never, **options: Any) -> list[SweepResult]:
    """Run studies together on so many workers."""
    pool = partial(TurnsPool, workers, dies, replaced=options.pop("replaced", True))
    options = {"slots": 1, "storage": place.storage, "tracking_uri": place.tracking_uri} | options
    return run_together(list(studies), pool, **options)


def scores(result: SweepResult) -> dict[int, float]:
    return {trial.number: trial.value for trial in result.study.trials if trial.value is not None}


def workers_of(result: SweepResult) -> set[str]:
    return {trial.user_attrs["worker"] for trial in result.study.trials}


def test_the_same_study_on_one_and_on_three_workers_draws_the_same_and_has_the_same_scores(tmp_path: Path) -> None:
    one, three = home(tmp_path / "one"), home(tmp_path / "three")
    changes = {"search": {"trials": 7}, "model": {"id": str(one.folder / "base")}}
    (alone,) = run_on(1, one, one.study(**changes))
    (shared,) = run_on(3, three, three.study(**changes))
    assert [trial.params for trial in alone.study.trials] == [trial.params for trial in shared.study.trials]
    assert len(workers_of(shared)) == 3 and len(workers_of(alone)) == 1
    assert alone.counts == shared.counts == {"complete": 7}
    assert scores(shared) == pytest.approx(scores(alone), abs=1e-4)


def test_each_worker_says_what_it_has_loaded(here: Home) -> None:
    said = io.StringIO()
    run_on(2, here, here.study(), progress=PlainProgress(said))
    assert "worker 0: 1 slot on cpu of here\n" in said.getvalue()
    assert "worker 1: 1 slot on cpu of there\n" in said.getvalue()
    assert "at a time" not in said.getvalue()


def test_a_sweep_whose_folder_is_deleted_says_so_and_goes_on(here: Home) -> None:
    class Deleting(Heard):
        def ended(self, trial: EndedTrial) -> None:
            if trial.number == 0:
                shutil.rmtree(here.folder / "artifacts")

    shown = Deleting()
    (result,) = run_on(1, here, here.study(), progress=shown)
    assert result.counts == {"complete": 3} and here.adapter(2).is_file()
    (said,) = (line for line in shown.warnings if "owner.json is gone" in line)
    assert said.startswith(str(here.folder / "artifacts" / "small"))
    export("small", here.folder / "out", trial=2, storage=here.storage)
    assert here.run(here.study(), trials=4, slots=1).counts == {"complete": 4}


def test_a_run_of_a_study_that_is_done_writes_the_files_again_that_an_export_needs(here: Home) -> None:
    here.run(here.study())
    kept = [here.folder / "artifacts" / "small" / name for name in ("study.yaml", "validation.safetensors")]
    before = [file.read_bytes() for file in kept]
    for file in kept:
        file.unlink()
    here.run(here.study())
    assert [file.read_bytes() for file in kept] == before
    export("small", here.folder / "out", storage=here.storage)


def test_two_studies_share_two_workers_and_a_worker_goes_to_the_study_that_has_more_left(here: Home) -> None:
    short = here.study("short", search={"trials": 1})
    long = here.study("long", search={"trials": 6})
    first, second = run_on(2, here, short, long)
    assert (first.counts, second.counts) == ({"complete": 1}, {"complete": 6})
    assert len(workers_of(first)) == 1
    assert len(workers_of(second)) == 2
    assert {run.info.status for run in here.runs()} == {"FINISHED"}
    assert len(here.runs()) == 2 + 1 + 6


def test_the_time_of_studies_that_share_workers_is_the_mean_of_all_workers(here: Home) -> None:
    """And not of as many as trained one of the studies: the shares would add up to more than the whole."""
    results = run_on(2, here, *(here.study(name, search={"trials": 1}) for name in ("one", "two")))
    assert [result.worker_numbers for result in results] == [{0}, {1}] and results[0].workers == 1
    results += [results[0]]  # worker 0 has come to a further study
    said = io.StringIO()
    _say_time(PlainProgress(said), results)
    assert "in this run, of 2 workers the mean ·" in said.getvalue()
    assert min(map(float, re.findall(r"(\S+)%", said.getvalue()))) >= 0


def test_one_worker_trains_one_study_after_the_other_in_their_order_as_if_each_were_alone(here: Home) -> None:
    short, long = here.study("short", search={"trials": 2}), here.study("long", search={"trials": 4})
    ends: list[str] = []

    class Ends(Silent):
        def ended(self, trial: EndedTrial) -> None:
            ends.append(trial.study)

    places: Any = {"storage": here.storage, "tracking_uri": here.tracking_uri, "slots": 1}
    together = run_together([short, long], progress=Ends(), **places)
    assert ends == ["short"] * 2 + ["long"] * 4
    alone = [here.run(study, slots=1, storage=f"sqlite:///{here.folder}/alone.db") for study in (short, long)]
    assert [scores(result) for result in together] == [scores(result) for result in alone]


def test_the_time_of_a_study_begins_when_its_turn_comes(here: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    real, passed = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: real() + passed[0])

    class Slow(Silent):
        def ended(self, trial: EndedTrial) -> None:
            passed[0] += 1000 if trial.study == "one" else 0

    places: Any = {"storage": here.storage, "tracking_uri": here.tracking_uri, "slots": 1}
    one, two = run_together([here.study("one"), here.study("two")], progress=Slow(), timeout=900, **places)
    assert (one.counts, two.counts) == ({"complete": 2}, {"complete": 3})  # the second had begun


class Watched(Silent):
    """Progress that remembers every status and when it came."""

    def __init__(self) -> None:
        self.statuses: list[tuple[float, SweepStatus]] = []

    def step(self, status: SweepStatus) -> None:
        self.statuses.append((time.monotonic(), status))


def test_a_display_is_told_of_all_workers_about_once_a_second_however_many_report(here: Home) -> None:
    watched = Watched()
    study = here.study(train={"epochs": 24, "evals_per_epoch": 1}, search={"trials": 4})
    run_on(4, here, study, progress=watched)
    several = [(at, status) for at, status in watched.statuses if len(status.workers) > 1]
    assert len(several) >= 2
    assert all(later - earlier > 0.89 for (earlier, _), (later, _) in itertools.pairwise(several))
    workers = max((status.workers for _, status in several), key=len)
    places = {worker.number: (worker.node, worker.device) for worker in workers}
    assert places == {0: ("here", "cpu"), 1: ("there", "cpu"), 2: ("here", "cpu"), 3: ("there", "cpu")}


def test_a_worker_that_is_idle_keeps_its_base_for_the_trials_of_a_worker_that_is_lost(here: Home) -> None:
    pools: list[TurnsPool] = []

    def dies(worker: int, events: Sequence[Event]) -> str | None:
        """The last trial loses its first worker when the other is idle."""
        reports = [report for event in events if isinstance(event, Evaluated) for report in event.reports]
        late = any(report.trial.number == 2 and report.evaluation.index == 3 for report in reports)
        return "its node left" if late and len(pools[0].workers) == 2 and not pools[0].free() else None

    def start() -> TurnsPool:
        pools.append(TurnsPool(2, dies))
        return pools[0]

    options: Any = {"slots": 1, "storage": here.storage, "tracking_uri": here.tracking_uri}
    (result,) = run_together([here.study(train={"epochs": 4, "evals_per_epoch": 1})], start, **options)
    assert result.counts == {"complete": 3} and pools[0].loads == 2
    assert len(result.study.trials[2].user_attrs["pauses"]) == 1


def test_workers_that_rested_on_a_machine_that_is_gone_do_not_fail_the_trial_it_trained(here: Home) -> None:
    gone = False

    def dies(worker: int, events: Sequence[Event]) -> str | None:
        """Four workers are on a machine that is gone once one of them trains the last trial, and the others rest."""
        nonlocal gone
        reports = [report for event in events if isinstance(event, Evaluated) for report in event.reports]
        late = any(report.trial.number == 4 and report.evaluation.index == 3 for report in reports)
        gone = gone or (worker < 4 and late)
        return "its host is down" if gone and worker < 4 else None

    pool = partial(TurnsPool, 4, dies, nodes=(*["there"] * 4, *["here"] * 9))
    options: Any = {"slots": 1, "storage": here.storage, "tracking_uri": here.tracking_uri}
    study = here.study(search={"trials": 5}, train={"epochs": 4, "evals_per_epoch": 1})
    (result,) = run_together([study], pool, **options)
    assert gone and result.counts == {"complete": 5}
    assert len(result.study.trials[4].user_attrs["pauses"]) == 1


class DiesAt:
    """A worker dies as it reports the n-th evaluations of all, so that they are lost."""

    def __init__(self, *moments: int) -> None:
        self.moments, self.evaluated = moments, 0

    def __call__(self, worker: int, events: Sequence[Event]) -> str | None:
        now = any(isinstance(event, Evaluated) for event in events)
        self.evaluated += now
        return "its process was killed" if now and self.evaluated in self.moments else None


def test_a_lost_workers_trials_are_resumed_by_others_to_the_result_of_an_undisturbed_sweep(tmp_path: Path) -> None:
    never_lost, lost = home(tmp_path / "never"), home(tmp_path / "lost")
    changes = {"search": {"trials": 5}, "model": {"id": str(never_lost.folder / "base")}}
    changes["train"] = {"epochs": 4, "evals_per_epoch": 1}
    (undisturbed,) = run_on(3, never_lost, never_lost.study(**changes))
    heard = Heard()
    (disturbed,) = run_on(3, lost, lost.study(**changes), dies=DiesAt(5, 9), progress=heard)
    losses = [warning for warning in heard.warnings if "was lost" in warning]
    said = r"worker \d was lost: its process was killed; trials to be resumed: \d"
    assert len(losses) == 2 and all(re.fullmatch(said, line) for line in losses), losses
    assert disturbed.counts == undisturbed.counts == {"complete": 5}
    assert scores(disturbed) == pytest.approx(scores(undisturbed), abs=1e-4)
    resumed = [trial for trial in disturbed.study.trials if trial.user_attrs.get("pauses")]
    assert len(resumed) == 2
    assert all(len(trial.intermediate_values) == 4 for trial in disturbed.study.trials)
    assert {run.info.status for run in lost.runs()} == {"FINISHED"} and len(lost.runs()) == 6


def test_a_trial_whose_workers_die_three_times_fails_with_the_reason_and_the_others_go_on(here: Home) -> None:
    def dies(worker: int, events: Sequence[Event]) -> str | None:
        reports = [report for event in events if isinstance(event, Evaluated) for report in event.reports]
        return "its memory ran out" if any(report.trial.number == 1 for report in reports) else None

    (result,) = run_on(2, here, here.study(search={"trials": 4}), dies=dies)
    assert result.counts == {"complete": 3, "failed": 1}
    said = "3 workers were lost while they trained it; the last: its memory ran out"
    assert result.study.trials[1].user_attrs["reason"] == said


@pytest.mark.parametrize(("workers", "slots"), [(1, 3), (2, 4)])
def test_a_trial_that_kills_its_worker_takes_no_other_trial_along(here: Home, workers: int, slots: int) -> None:
    def dies(worker: int, events: Sequence[Event]) -> str | None:
        """As trial 0 reaches its second evaluation."""
        reports = [report for event in events if isinstance(event, Evaluated) for report in event.reports]
        late = any((report.trial.number, report.evaluation.index) == (0, 2) for report in reports)
        return "its memory ran out" if late else None

    (result,) = run_on(workers, here, here.study(search={"trials": 8}), dies=dies, slots=slots)
    assert result.counts == {"complete": 7, "failed": 1}
    assert result.study.trials[0].state == optuna.trial.TrialState.FAIL


def test_workers_that_are_lost_again_and_again_fail_no_trial_that_goes_on_meanwhile(here: Home) -> None:
    """As on machines that others may take away at any time."""
    study = here.study(search={"trials": 2}, train={"epochs": 6, "evals_per_epoch": 1})
    (result,) = run_on(1, here, study, dies=DiesAt(3, 6, 9, 12), slots=2)
    assert result.counts == {"complete": 2}
    assert all(len(trial.user_attrs["pauses"]) >= 3 for trial in result.study.trials)


def test_without_any_worker_left_the_sweep_ends_with_the_reason_and_goes_on_later(here: Home) -> None:
    study = here.study()
    with pytest.raises(WorkerError, match="all workers are gone"):
        run_on(1, here, study, dies=DiesAt(6), replaced=False)
    (result,) = run_on(2, here, study)
    assert result.counts == {"complete": 3}


def struck_pool(pools: list[TurnsPool], workers: int, struck: Callable[[Call, tuple[Any, ...]], str | None]) -> Any:
    """Starts a pool whose workers are lost at some calls, and puts it into the list."""

    def start() -> TurnsPool:
        pools.append(TurnsPool(workers, struck=struck))
        return pools[-1]

    return start


def test_a_worker_that_is_lost_as_it_is_closed_costs_nothing(here: Home) -> None:
    pools: list[TurnsPool] = []
    start = struck_pool(pools, 1, lambda name, arguments: "gone" if name == "close" else None)
    heard = Heard()
    options: Any = {"slots": 1, "storage": here.storage, "tracking_uri": here.tracking_uri, "progress": heard}
    (result,) = run_together([here.study()], start, **options)
    assert result.counts == {"complete": 3} and pools[0].loads == 1
    assert not [line for line in heard.warnings if line.startswith("worker")]


def test_a_worker_that_is_lost_as_it_scores_the_test_split_is_not_replaced_for_that(here: Home) -> None:
    test = write(here.folder / "test.csv", tiny_rows(LABELS, 24, 3, single="label"))
    study, pools, heard = here.study(data={"test": str(test)}), list[TurnsPool](), Heard()

    def scoring(name: Call, arguments: tuple[Any, ...]) -> str | None:
        return "gone" if name == "advance" and any(isinstance(each, ScoreTrial) for each in arguments[0]) else None

    options: Any = {"slots": 1, "storage": here.storage, "tracking_uri": here.tracking_uri}
    (result,) = run_together([study], struck_pool(pools, 1, scoring), progress=heard, **options)
    assert result.counts == {"complete": 3} and pools[0].loads == 1
    assert re.fullmatch(r"test split: trial \d was not scored; the next run tries again", heard.warnings[-1])
    (again,) = run_on(1, here, study)
    assert "test" in again.study.user_attrs


def test_a_study_that_no_worker_can_load_leaves_the_workers_to_the_others(here: Home) -> None:
    bad, good, pools = here.study("bad", search={"trials": 6}), here.study("good", search={"trials": 2}), []

    def loading(name: Call, arguments: tuple[Any, ...]) -> str | None:
        return "its GPU is full" if name == "load" and arguments[0].config.name == "bad" else None

    options: Any = {"slots": 1, "storage": here.storage, "tracking_uri": here.tracking_uri}
    said = r"^(here|there): 2 workers in a row were lost while they loaded bad; the last: its GPU is full$"
    with pytest.raises(WorkerError, match=said):
        run_together([bad, good], struck_pool(pools, 2, loading), **options)
    assert [status["complete"] for status in peftsweep.status(here.storage)] == [0, 2]
    assert pools[0].loads == 4 + 2


class Lacking(TurnsPool):
    """The node `there` lacks the base of the study `local`."""

    def _answer(self, number: int, name: Call, arguments: tuple[Any, ...]) -> Any:
        if name == "load" and self.node(number) == "there" and arguments[0].config.name == "local":
            raise ModelError("there: model.id: /bases/x is gone")
        return super()._answer(number, name, arguments)


def run_lacking(place: Home, workers: int, *studies: Path, heard: Heard, **options: Any) -> list[SweepResult]:
    pool = partial(Lacking, workers, nodes=options.pop("nodes", ("here", "there")))
    fixed: Any = {"slots": 1, "storage": place.storage, "tracking_uri": place.tracking_uri, "progress": heard}
    return run_together(list(studies), pool, **fixed, **options)


def test_a_node_that_lacks_the_base_leaves_its_study_to_the_others_and_takes_another(here: Home) -> None:
    local, other, heard = here.study("local", search={"trials": 6}), here.study("other"), Heard()
    first, second = run_lacking(here, 2, local, other, heard=heard)
    assert (first.counts, second.counts) == ({"complete": 6}, {"complete": 3})
    assert workers_of(first) == {"0 on cpu of here"} and "1 on cpu of there" in workers_of(second)
    told = [warning for warning in heard.warnings if "model.id" in warning]
    assert told == ["local: there: model.id: /bases/x is gone; there trains no more trials of local"]


def test_a_bad_gpu_does_not_make_its_machine_unfit() -> None:
    nodes = unfit_nodes.UnfitNodes("one", print)
    for _ in range(5):
        nodes.lost("box", "its GPU is full", trains=True)
    assert "box" not in nodes
    nodes.lost("box", "its GPU is full", trains=False)
    assert "box" in nodes
    nodes.loaded("box")  # on another GPU
    assert "box" not in nodes and not nodes


def test_a_base_that_no_node_has_ends_its_study_with_the_node_and_the_folder(here: Home) -> None:
    heard = Heard()
    with pytest.raises(ModelError, match=r"^there: model\.id: /bases/x is gone$"):
        run_lacking(here, 2, here.study("local"), heard=heard, nodes=["there"])
    assert not any("model.id" in warning for warning in heard.warnings) and states(here)["local"][0] == "failed"


def test_a_worker_that_is_still_to_come_may_have_the_base(here: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(Lacking):
        """Its second worker comes when the first has found no base."""

        def size(self) -> int:
            return 2

        def wait(self, seconds: float) -> Sequence[Answer | Failed | Lost]:
            if self.calls:
                return super().wait(seconds)
            if next(self.numbers) == 4:
                self.workers[4] = None
            return []

    options: Any = {"slots": 1, "storage": here.storage, "tracking_uri": here.tracking_uri}
    (result,) = run_together([here.study("local")], partial(Late, 1, nodes=["there", "", "", "", "here"]), **options)
    assert workers_of(result) == {"4 on cpu of here"}
    monkeypatch.setattr(unfit_nodes, "ARRIVAL", 0.01)
    with pytest.raises(ModelError):
        run_together([here.study("local")], partial(Late, 1, nodes=["there"]), **options, trials=6)


# An error in one study -----------------------------------------------------------------------------------------------

OFTEN: dict[str, Any] = {"epochs": 6, "evals_per_epoch": 1}


def states(place: Home) -> dict[str, tuple[str, int]]:
    return {row["study"]: (row["state"], row["complete"]) for row in peftsweep.status(place.storage)}


def test_an_adapter_that_cannot_be_written_ends_its_study_alone_which_goes_on_later(here: Home) -> None:
    """As when the disk is full, and another process makes room."""
    bad, good = here.study("bad", search={"trials": 4}), here.study("good", train=OFTEN, search={"trials": 6})
    blocked: list[Path] = []

    def block(worker: int, events: Sequence[Event]) -> None:
        ends = [event.trial.folder for event in events if isinstance(event, TrialEnded)]
        for folder in [each for each in ends if each.parent.name == "bad" and not blocked]:
            shutil.rmtree(folder, ignore_errors=True)
            folder.touch()
            blocked.append(folder)

    with pytest.raises(StorageError, match=r"artifacts/bad/trial-000\d"):
        run_on(2, here, bad, good, dies=block)
    assert states(here) == {"bad": ("failed", 0), "good": ("done", 6)}
    assert "RUNNING" not in {run.info.status for run in here.runs()}
    blocked[0].unlink()
    (result,) = run_on(2, here, bad)
    assert result.counts == {"complete": 4} and len(result.study.trials) == 4
    assert {run.info.status for run in here.runs()} == {"FINISHED"}


def test_a_full_disk_is_recorded_with_the_path_of_the_trial(here: Home) -> None:
    class Full(TurnsPool):
        def _answer(self, number: int, name: Call, arguments: tuple[Any, ...]) -> Any:
            if name == "advance":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/small/trial-0000")
            return super()._answer(number, name, arguments)

    with pytest.raises(StorageError, match="full"):
        run_together([here.study()], partial(Full, 2), storage=here.storage, tracking_uri=here.tracking_uri)
    (row,) = peftsweep.status(here.storage)
    assert row["state"] == "failed" and "/data/small/trial-0000" in row["reason"]


def test_runs_that_a_killed_command_left_are_ended_by_a_command_without_any_worker(here: Home) -> None:
    study = here.study()
    words = ("run", "--study", str(study), "--slots", "1")
    struck(here, "peftsweep.sweep.study_judge:StudyJudge.finish 2", [signal.SIGKILL], *words)
    assert "RUNNING" in {run.info.status for run in here.runs()}
    pool = partial(TurnsPool, 1, struck=lambda name, arguments: "it is switched off", replaced=False)
    with pytest.raises(WorkerError):
        run_together([study], pool, storage=here.storage, tracking_uri=here.tracking_uri)
    assert {run.info.status for run in here.runs()} == {"FINISHED", "KILLED"}


def test_a_study_that_is_deleted_while_it_runs_ends_alone(here: Home) -> None:
    gone, good = here.study("gone", train=OFTEN), here.study("good", train=OFTEN)

    def delete() -> None:
        optuna.delete_study(study_name="gone", storage=here.storage)

    with pytest.raises(StorageError, match="deleted"):
        run_on(2, here, gone, good, dies=at(3, delete))
    assert states(here) == {"good": ("done", 3)}


def test_a_study_whose_call_cannot_be_sent_ends_alone(here: Home) -> None:
    class Picky(TurnsPool):
        def call(self, worker: int, name: Call, *arguments: Any) -> None:
            starts = [each for each in arguments[0] if isinstance(each, StartTrials)] if name == "advance" else []
            if any(trial.folder.parent.name == "bad" for each in starts for trial in each.trials):
                raise FileNotFoundError(2, "not there", "owner.json")
            super().call(worker, name, *arguments)

    options: Any = {"slots": 1, "storage": here.storage, "tracking_uri": here.tracking_uri}
    with pytest.raises(StorageError, match=r"^owner\.json"):
        run_together([here.study("bad"), here.study("good")], partial(Picky, 2), **options)
    assert states(here) == {"bad": ("failed", 0), "good": ("done", 3)}


def test_the_command_goes_on_after_an_error_in_one_study_and_tells_it_in_the_end(here: Home) -> None:
    wide, small = here.study("wide", space={"learning_rate": [1e-3], "rank": [4, 999]}), here.study()
    done = here.call("run", "--study", str(wide), "--study", str(small))
    assert done.returncode == 1
    assert "999 is above" in done.stderr.splitlines()[-1]
    assert any(line.startswith("small: 3 complete") for line in done.stderr.splitlines()), done.stderr
    assert states(here) == {"wide": ("failed", 0), "small": ("done", 3)}
