"""Do the services of compose.yaml's profile ray train a study together? They run as in containers, without Docker."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from tests.fork_server import python_path
from tests.programs import lacking
from tests.services import SECRETS, compose
from tests.studies import home, until

SERVICES = compose(SECRETS | {"RAY_AUTH_TOKEN": "of-the-test", "STUDY": "spread", "WORKERS": "2"})["services"]
ALONE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && echo ready && exec "$@"', "--", "sleep", "infinity"]
OTHERS = ("PEFTSWEEP_STORAGE", "MLFLOW_TRACKING_URI")  # services that are not started here: the study is in studies.db
Start = Callable[[str, list[str]], "subprocess.Popen[str]"]


def of(folder: str) -> dict[int, str]:
    """The environments of the processes that keep Ray's files in a folder, by process."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("RAY_TMPDIR") == folder:
                found[process.pid] = str(process.environ())
    return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a command with a service's environment, in a network of its own: nobody else reaches Ray's ports."""
    with TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # sockets need a short path
        network = subprocess.Popen(ALONE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if not network.stdout or network.stdout.readline() != "ready\n":
            lacking("a network of its own", f"run the tests as root: {network.communicate()[1]}")
        own = {
            key: value for key, value in os.environ.items() if not key.startswith(("PG", "MLFLOW", "PEFTSWEEP", "RAY"))
        }
        path = os.pathsep.join([str(Path(sys.executable).parent), own["PATH"]])
        # other tests run at the same time
        own |= {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "RAY_memory_monitor_refresh_ms": "0"}
        own |= {"PATH": path, "PYTHONPATH": python_path(), "RAY_TMPDIR": folder}

        started: list[subprocess.Popen[str]] = []

        def start(service: str, command: list[str]) -> subprocess.Popen[str]:
            given = {key: value for key, value in SERVICES[service]["environment"].items() if key not in OTHERS}
            words = [word.replace("ray-head:", "127.0.0.1:") for word in command]
            inside = ["nsenter", f"--net=/proc/{network.pid}/ns/net", *words]
            with (tmp_path / f"{service}.log").open("a") as log:
                started.append(
                    subprocess.Popen(inside, cwd=tmp_path, env=own | given, stdout=log, stderr=log, text=True)
                )
            return started[-1]

        try:
            yield start
        finally:
            for process in of(folder):
                with suppress(psutil.NoSuchProcess):
                    psutil.Process(process).kill()
            for each in (*started, network):
                each.kill()
                each.communicate()


@pytest.mark.timeout(900)  # Ray and two workers take a minute to start, and more on a busy machine
def test_a_sweep_trains_on_the_node_and_nobody_else_has_its_password(start: Start, tmp_path: Path) -> None:
    here = home(tmp_path)
    (tmp_path / "sweeps").mkdir()
    here.study("sweeps/spread", train={"epochs": 8, "evals_per_epoch": 1}, search={"trials": 4})
    start("ray-head", SERVICES["ray-head"]["command"])
    while start("ray-head", SERVICES["ray-head"]["healthcheck"]["test"][1:]).wait(60) != 0:
        time.sleep(1)
    node = start("ray-node", SERVICES["ray-node"]["command"])
    # Nodes that start on one machine at the same time take each other's ports.
    until(lambda: "Ray runtime started" in (tmp_path / "ray-node.log").read_text(), node)
    sweep = start("sweep", SERVICES["sweep"]["command"])
    log = tmp_path / "sweep.log"
    until(lambda: " running" in log.read_text(), sweep, 400)
    environments = of(psutil.Process(sweep.pid).environ()["RAY_TMPDIR"])
    assert len(environments) > 10  # those of three of Ray's nodes, and of workers
    assert {pid for pid, each in environments.items() if SECRETS["STUDIES_PASSWORD"] in each} == {sweep.pid}
    assert sweep.wait(400) == 0 and "spread: 4 complete" in log.read_text(), log.read_text()
    assert len(list(tmp_path.glob("artifacts/spread/trial-*/adapter"))) == 3  # a study keeps its best three
