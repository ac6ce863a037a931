"""A sweep on a cluster of Ray goes on whatever dies: no finished trial is lost or runs twice, no result changes."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pytest

from peftsweep import __version__
from peftsweep.config import SPECS
from peftsweep.engine import Evaluated, StartTrials
from peftsweep.errors import ModelError, WorkerError
from peftsweep.methods import METHODS, register
from peftsweep.progress import EndedTrial, Silent
from peftsweep.storage import Studies, TrialRecord
from peftsweep.sweep import unfit_nodes
from peftsweep.sweep.run_study import run_together
from peftsweep.workers import Answer, Call, Failed, Lost, ray_pool
from peftsweep.workers.ray_pool import RayPool
from tests.ray_cluster import RayCluster, alive, descendants, ray_cluster
from tests.studies import ROOT, Home, home
from tests.troubled_methods import Full

pytestmark = pytest.mark.timeout(600)  # torch is loaded by several new processes
TRIALS = 6
AFTER, FURTHER = 10, 3  # evaluations before a pool strikes, and strikes again: a trial has 8
CHANGES: dict[str, Any] = {"train": {"epochs": 4, "evals_per_epoch": 2}, "search": {"trials": TRIALS}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A sweep that nothing disturbs, on one worker in this process."""
    place = home(tmp_path_factory.mktemp("undisturbed"))
    assert place.run(place.study(**CHANGES), slots=1).counts == {"complete": TRIALS}
    return place


@pytest.fixture(scope="module")
def shared() -> Iterator[RayCluster]:
    with ray_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: RayCluster) -> Iterator[RayCluster]:
    """The cluster, with one node for a worker. What a test adds is removed after it."""
    if not shared.nodes:
        shared.add()
    with shared.as_before():
        yield shared


@pytest.fixture(autouse=True)
def full() -> Iterator[None]:
    register(Full)
    yield
    del METHODS[Full.name], SPECS[Full.name]


@pytest.fixture
def here(tmp_path: Path, base: Home) -> Home:
    return home(tmp_path / "home")


class Ended(Silent):
    """Progress that counts how often each trial ended, and remembers lines."""

    def __init__(self) -> None:
        self.ends: Counter[int] = Counter()
        self.lines: list[str] = []

    def ended(self, trial: EndedTrial) -> None:
        self.ends[trial.number] += 1

    def note(self, text: str) -> None:
        self.lines.append(text)

    warn = note


class Struck(RayPool):
    """A pool that strikes while workers train. Those that have trained wait for those that must train before a strike.

    Args:
        strikes: what happens, one after the other: the first after some evaluations, while `crew` workers train, and
            each further one after some evaluations of a worker that came since.
        crew: number of workers that train when the pool strikes first.
        freed: whether workers that have trained may start further trials after the last strike. Until then they wait.

    Attributes:
        starts: how often each trial was started.
        training: workers that were given trials.
        lost: why workers were lost.
    """

    def __init__(
        self, strikes: Sequence[Callable[[], object]], freed: Callable[[Struck], bool], crew: int, **options: Any
    ) -> None:
        super().__init__(**options)
        self.strikes, self.freed, self.crew, self.after = list(strikes), freed, crew, AFTER
        self.since = 0  # first worker whose evaluations count
        self.starts, self.training, self.lost = Counter[int](), set[int](), list[str]()
        self.held: list[tuple[int, Any]] = []

    def call(self, worker: int, name: Call, *arguments: Any) -> None:
        starts = [each for each in arguments[0] if isinstance(each, StartTrials)] if name == "advance" else []
        numbers = [trial.number for each in starts for trial in each.trials]
        go_on = len(self.training) >= self.crew if self.strikes else self.freed(self)
        if numbers and worker in self.training and not go_on:
            self.held.append((worker, arguments))
            return
        self.starts.update(numbers)
        self.training |= {worker} if numbers else set()
        super().call(worker, name, *arguments)

    def wait(self, seconds: float) -> Sequence[Answer | Failed | Lost]:
        answers = super().wait(seconds)
        for answer in answers:
            if isinstance(answer, Lost):
                self.lost.append(answer.reason)
            elif isinstance(answer, Answer) and isinstance(answer.value, list) and answer.worker >= self.since:
                self.after -= sum(isinstance(event, Evaluated) for event in answer.value)
        if self.strikes and self.after <= 0 and len(self.training) >= self.crew and not self.held:
            self.strikes.pop(0)()
            self.crew, self.after, self.since = self.crew + 1, FURTHER, max(self.training) + 1
        held, self.held = self.held, []
        for worker, arguments in held:
            self.call(worker, "advance", *arguments)
        return answers


def sweep(
    place: Home,
    cluster: RayCluster,
    *strikes: Callable[[], object],
    timeout: float = 100,
    freed: Callable[[Struck], bool] = lambda pool: True,
    crew: int = 1,
    address: str | None = None,
    workers: int | Literal["auto"] = 2,
    **changes: Any,
) -> tuple[Struck, Ended]:
    """Run the study on workers of a cluster.

    Args:
        timeout: seconds after which a silent worker is replaced.
        crew: number of workers that train when the pool strikes first.
        address: by which the sweep joins the cluster.
    """
    shown, pools = Ended(), list[Struck]()

    def pool() -> Struck:
        options = {"workers": workers, "address": address or cluster.address, "timeout": timeout, "note": shown.note}
        pools.append(Struck(strikes, freed, crew, **options))
        return pools[0]

    options = {"slots": 1, "checkpoint_every": 0.0, "storage": place.storage, "tracking_uri": place.tracking_uri}
    run_together([place.study(**CHANGES, **changes)], pool, progress=shown, **options)
    return pools[0], shown


def records(place: Home) -> list[TrialRecord]:
    return Studies(place.storage).load("small").records()


def check_whole(place: Home, undisturbed: Home, shown: Ended | None = None) -> None:
    """No trial is lost or was trained in part, and all have the scores that they have in an undisturbed sweep."""
    found, expected = records(place), records(undisturbed)
    assert [trial.state for trial in found] == ["complete"] * TRIALS
    assert [trial.drawn for trial in found] == [trial.drawn for trial in expected]
    for trial, other in zip(found, expected, strict=True):
        assert trial.scores == pytest.approx(other.scores, abs=1e-4)
        assert len(trial.evaluations) == len(other.evaluations) == len(trial.reported)
    states = Counter(run.info.status for run in place.runs())
    assert states == {"FINISHED": TRIALS + 1}
    assert shown is None or shown.ends == dict.fromkeys(range(TRIALS), 1)


def test_a_worker_that_is_killed_and_one_that_hangs_are_replaced(here: Home, base: Home, cluster: RayCluster) -> None:
    cluster.add()
    hanging: list[int] = []

    def kill() -> None:
        os.kill(cluster.workers()[0], signal.SIGKILL)

    def hang() -> None:
        hanging.append(cluster.workers()[0])
        os.kill(hanging[0], signal.SIGSTOP)

    pool, shown = sweep(here, cluster, kill, hang, timeout=8, crew=2)
    check_whole(here, base, shown)
    assert len(pool.lost) == 2 and pool.lost[1] == "it reported nothing for 8 s"
    assert sum(pool.starts.values()) == TRIALS + 2
    assert sum(len(trial.pauses) for trial in records(here)) == 2  # trials went on from their checkpoints
    until_gone(hanging)


def test_a_node_that_joins_is_used_and_when_it_leaves_its_trial_goes_on_elsewhere(
    here: Home, base: Home, cluster: RayCluster
) -> None:
    pool, shown = sweep(here, cluster, cluster.add, lambda: cluster.remove(cluster.nodes[-1]))
    check_whole(here, base, shown)
    assert len(pool.training) == 2
    assert sum(pool.starts.values()) == TRIALS + 1 and len(pool.lost) == 1


@pytest.mark.parametrize(("workers", "trained"), [("auto", 3), (2, 2)])
def test_gpus_that_join_in_mid_sweep_get_workers(
    workers: int | Literal["auto"], trained: int, here: Home, base: Home, cluster: RayCluster
) -> None:
    """Of two workers, one waits for cores. It starts again, as worker 2, to get a GPU."""

    def freed(pool: Struck) -> bool:
        return len(pool.training) == trained

    pool, shown = sweep(here, cluster, lambda: cluster.add(gpus=2), freed=freed, workers=workers)
    check_whole(here, base, shown)
    assert 2 in pool.training and pool.lost == []


def test_a_worker_whose_gpu_stays_full_is_given_up(here: Home, base: Home, cluster: RayCluster) -> None:
    full = here.folder / "full"
    cluster.add(FULL=str(full))
    pool, shown = sweep(here, cluster, full.touch, freed=lambda pool: len(pool.lost) == 3, crew=2, method="full")
    check_whole(here, base, shown)
    assert len(pool.lost) == 3 and all("out of memory" in reason for reason in pool.lost)
    assert any(line.startswith("workers: 3 were lost in a row") for line in shown.lines)
    assert pool.size() == 1


def test_a_cluster_whose_head_is_gone_ends_the_sweep_and_another_goes_on(
    here: Home, base: Home, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
    monkeypatch.setattr(unfit_nodes, "ARRIVAL", 1.0)  # the cluster has no room for the second worker
    base_here = shutil.copytree(here.folder / "base", here.folder / "artifacts" / "base-here")
    with ray_cluster(hidden=here.folder / "artifacts") as other:  # as if on another machine, without a shared disk
        other.add()
        with pytest.raises(ModelError, match=rf"^{platform.node()}: .*/base-here is not there$"):
            sweep(here, other, lambda: None, model={"id": str(base_here)})
        said = r"^the Ray cluster at '127\.0\.0\.1:\d+' is gone: .*GCS.*; finished trials are kept: start Ray, then run"
        with pytest.raises(WorkerError, match=said):
            sweep(here, other, other.kill_head, freed=lambda pool: False)
    assert "RUNNING" not in {run.info.status for run in here.runs()}
    done = {trial.number for trial in records(here) if trial.state == "complete"}
    pool, _ = sweep(here, cluster, lambda: None)
    check_whole(here, base)
    assert done and not done & pool.starts.keys()


def test_a_broker_that_hangs_ends_the_sweep_and_the_next_goes_on(
    here: Home, base: Home, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        monkeypatch.setattr(ray_pool, "SILENT", 10.0)
        (broker,) = (process for process, words in descendants(os.getpid()).items() if "ray_broker.py" in words)
        os.kill(broker, signal.SIGSTOP)

    with pytest.raises(WorkerError, match=r"is gone: .* 10 s; finished trials"):
        sweep(here, cluster, stop, freed=lambda pool: False)
    done = {trial.number for trial in records(here) if trial.state == "complete"}
    pool, _ = sweep(here, cluster, lambda: None)
    check_whole(here, base)
    assert done and not done & pool.starts.keys()


def test_a_sweep_outside_the_cluster_goes_through_its_client_server(
    here: Home, base: Home, cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_CLIENT_RECONNECT_GRACE_PERIOD", "2")
    _, shown = sweep(here, cluster, lambda: None, address=cluster.client)
    check_whole(here, base, shown)
    other = home(tmp_path / "other")
    # Now and then, a call of Ray's client never returns.
    said = r"is gone: (the connection to its client server is lost|it has not answered for 120 s); finished trials"
    with pytest.raises(WorkerError, match=said):
        sweep(other, cluster, cluster.kill_client_server, freed=lambda pool: False, address=cluster.client)
    assert "complete" in {trial.state for trial in records(other)}


def test_a_cluster_of_other_versions_is_refused(cluster: RayCluster) -> None:
    here = f"Ray {version('ray')} and Python {platform.python_version()}"
    said = re.escape(f"cannot be used: it has Ray 2.9.0 and Python 3.9.7, and this process has {here}") + "$"
    with cluster.claiming("2.9.0", "3.9.7"), pytest.raises(WorkerError, match=said):
        RayPool(workers=1, address=cluster.address, timeout=60, note=print)


def test_a_node_with_other_versions_is_refused(
    here: Home, base: Home, cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here.folder)  # Ray lets workers import from the sweep's working folder
    shutil.copytree(ROOT / "peftsweep", tmp_path / "peftsweep")
    opening = tmp_path / "peftsweep" / "__init__.py"
    opening.write_text(opening.read_text().replace(f'"{__version__}"', '"0.0.7"'))
    (tmp_path / "sitecustomize.py").write_text(
        "import platform\nplatform.python_version_tuple = lambda: tuple('397')\n"
    )
    cluster.add(PYTHONPATH=f"{tmp_path}:{ROOT}")
    _, shown = sweep(here, cluster, lambda: None)
    check_whole(here, base, shown)
    (refused,) = (line for line in shown.lines if "refused" in line)
    here_python = ".".join(platform.python_version_tuple()[:2])
    assert f"{platform.node()} has Python 3.9 and peftsweep 0.0.7, and this process has Python {here_python}" in refused


def until_gone(processes: Sequence[int]) -> None:
    end = time.monotonic() + 30
    while alive(dict.fromkeys(processes, "")):
        assert time.monotonic() < end
        time.sleep(0.1)
