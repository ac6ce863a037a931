"""A local cluster of Ray lives and dies with its sweep, knows no password, and is reached from this machine alone."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from peftsweep.errors import WorkerError
from peftsweep.storage import Studies
from peftsweep.workers import Failed, ray_pool
from peftsweep.workers.ray_pool import RayPool
from tests.ray_calls import comes
from tests.ray_cluster import alive, descendants
from tests.studies import home, until

pytestmark = pytest.mark.timeout(600)  # torch is loaded by several new processes
CANARY = "kanari3nvogel-77"
LOGIN = f"me:{CANARY}@db.example.org"
SECRETS = {
    "PEFTSWEEP_STORAGE": f"postgresql://{LOGIN}/studies",
    "PEFTSWEEP_ELSEWHERE": f"postgresql://{LOGIN}/others",
    "PEFTSWEEP_COMMENT": f"the password is {CANARY}, do not forget it",
    "PGPASSWORD": CANARY,
    "MLFLOW_TRACKING_URI": f"http://{LOGIN}:5000",
    "RAY_REDIS_PASSWORD": CANARY,
}
OF_ANOTHER_CLUSTER = {
    "RAY_ADDRESS": "10.0.0.1:6379",
    "RAY_AUTH_MODE": "disabled",
    "RAY_OVERRIDE_RESOURCES": '{"CPU": 0}',
    "RAY_RUNTIME_ENV_HOOK": "no_such.hook",
}
LISTENS = "0A"  # in /proc/net/tcp


def listening(processes: set[int]) -> set[str]:
    """The addresses at which processes listen, in hexadecimal."""
    sockets = set[str]()
    for process in processes:
        for file in Path(f"/proc/{process}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                sockets.add(str(file.readlink()))
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == LISTENS and f"socket:[{row[9]}]" in sockets}


def test_a_killed_sweep_takes_its_cluster_with_it_and_goes_on_when_run_again(tmp_path: Path) -> None:
    alone, here = home(tmp_path / "alone"), home(tmp_path / "here")
    changes = {"train": {"epochs": 8, "evals_per_epoch": 1}, "search": {"trials": 4}}
    alone.run(alone.study(**changes), slots=1)
    study = here.study(**changes, model={"id": str(alone.folder / "base")})
    words = ["run", "--study", str(study), "--workers", "2", "--slots", "1"]
    words += ["--storage", here.storage, "--tracking-uri", here.tracking_uri]

    def finished() -> list[int]:
        found = Studies(here.storage).load("small").records() if (here.folder / "studies.db").exists() else []
        return [trial.number for trial in found if trial.state == "complete"]

    with here.start(*words, **SECRETS, **OF_ANOTHER_CLUSTER) as sweep:
        until(lambda: (here.folder / "artifacts" / "small" / "trial-0000" / "adapter").exists(), sweep)
        until(finished, sweep)  # the adapter is written before the trial's end is stored
        ours = descendants(sweep.pid)
        check_secrecy(ours)
        sweep.kill()
    done = finished()
    until_gone(ours)
    again = here.call(*words, **SECRETS)
    assert again.returncode == 0, again.stderr
    found, expected = (Studies(place.storage).load("small").records() for place in (here, alone))
    assert done and [trial.state for trial in found] == ["complete"] * 4
    assert not any(trial.pauses for trial in found if trial.number in done)
    for trial, other in zip(found, expected, strict=True):
        assert trial.scores == pytest.approx(other.scores, abs=1e-4)
        assert len(trial.evaluations) == len(other.evaluations)
    assert {run.info.status for run in here.runs()} == {"FINISHED"}


def check_secrecy(processes: dict[int, str]) -> None:
    """No process of Ray has the canary in its environment, command line or logs, and all listen on loopback."""
    titles = " ".join(processes.values())
    assert all(part in titles for part in ("ray_broker.py", "gcs_server", "raylet", "ray::SweepWorker"))
    for process, words in processes.items():
        environment = Path(f"/proc/{process}/environ").read_text()
        assert CANARY not in words and CANARY not in environment
        assert not any(f"{name}={value}" in environment for name, value in OF_ANOTHER_CLUSTER.items())
    logs = Path(titles.partition("--log_dir=")[2].partition(" ")[0])
    texts = [file.read_bytes() for file in logs.rglob("*") if file.is_file()]
    assert texts and not any(CANARY.encode() in text for text in texts)
    found = listening(set(processes))
    assert found and all(place == "0100007F" or place.endswith("FFFF00000100007F") for place in found), found


def until_gone(processes: dict[int, str], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while left := alive(processes):
        assert time.monotonic() < end, left
        time.sleep(0.1)


def test_a_killed_broker_loses_no_answer_and_leaves_no_process() -> None:
    before = descendants(os.getpid()).keys()
    pool = RayPool(workers=1, address=None, timeout=60.0, note=print)
    try:
        while not pool.free():
            pool.wait(1.0)
        ours = {process: words for process, words in descendants(os.getpid()).items() if process not in before}
        pool.call(0, "close")  # an error: it has loaded nothing
        time.sleep(2)
        (broker,) = (process for process, words in ours.items() if "ray_broker.py" in words)
        os.kill(broker, signal.SIGKILL)
        assert [(type(answer), answer.worker) for answer in pool.wait(10.0)] == [(Failed, 0)]
        with pytest.raises(WorkerError, match=r"^Ray is gone: .* -9; finished trials are kept: "):
            pool.wait(10.0)
    finally:
        pool.shutdown()
    assert any("raylet" in words for words in ours.values())
    until_gone(ours, 5)


def test_a_sweep_that_is_busy_for_longer_than_ray_may_be_silent_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = RayPool(workers=1, address=None, timeout=60.0, note=print)
    try:
        assert comes(pool) == []
        monkeypatch.setattr(ray_pool, "SILENT", 3.0)
        time.sleep(5)
        assert pool.wait(0.5) == []
        pool.call(0, "close")  # an error: it has loaded nothing
        time.sleep(5)
        assert [type(answer) for answer in pool.wait(0.5)] == [Failed]
    finally:
        pool.shutdown()


def test_a_local_cluster_refuses_whoever_has_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_NUM_REDIS_GET_RETRIES", "1")  # it would try again for 20 seconds
    pool = RayPool(workers=1, address=None, timeout=60.0, note=print)
    try:
        words = " ".join(descendants(os.getpid()).values())
        (port,) = set(re.findall(r"--gcs-address=127\.0\.0\.1:(\d+)", words))
        with pytest.raises(WorkerError, match="token is missing"):
            RayPool(workers=1, address=f"127.0.0.1:{port}", timeout=60.0, note=print)
    finally:
        pool.shutdown()


def test_a_signal_lets_workers_save_and_ends_everything(tmp_path: Path) -> None:
    here = home(tmp_path / "here")
    study = here.study(train={"epochs": 400, "evals_per_epoch": 1}, search={"trials": 2})
    with here.start("run", "--study", str(study), "--workers", "2", "--slots", "1") as sweep:
        until(lambda: (here.folder / "artifacts" / "small" / "trial-0001").exists(), sweep)
        ours = descendants(sweep.pid)
        time.sleep(2)
        sweep.send_signal(signal.SIGINT)
        _, err = sweep.communicate(timeout=120)
    assert sweep.returncode == 130, err
    assert here.checkpoints(0) and here.checkpoints(1)
    assert alive(ours) == {}
