"""Does docs/slurm/sweep.sbatch go on by itself? Signals and a scontrol of the tests play the part of SLURM."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fork_server import python_path
from tests.programs import free_port
from tests.studies import Home, home, until

SCRIPT = Path(__file__).parents[1] / "docs" / "slurm" / "sweep.sbatch"
TWO_NODES = {"SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "8", "SLURM_GPUS_ON_NODE": "4"}


@pytest.fixture
def here(tmp_path: Path) -> Home:
    """A working folder with a study, and a folder with programs of SLURM."""
    here = home(tmp_path)
    (here.folder / "sweeps").mkdir()
    here.study("sweeps/long", train={"epochs": 40, "evals_per_epoch": 1}, search={"trials": 2})
    programs = here.folder / "bin"
    programs.mkdir()
    program(here, "scontrol", 'echo "$@" >> asked')
    return here


def program(here: Home, name: str, does: str) -> None:
    file = here.folder / "bin" / name
    file.write_text(f"#!/bin/bash\n{does}\n")
    file.chmod(0o755)


def submitted(here: Home, *studies: str, **changes: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(here.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    slurm = {"SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": "17"}
    env = os.environ | {"PATH": path, "PYTHONPATH": python_path()} | slurm | changes
    with (here.folder / "log").open("w") as log:
        return subprocess.Popen(["bash", str(SCRIPT), *studies], cwd=here.folder, env=env, stderr=log, text=True)


def log(here: Home) -> str:
    return (here.folder / "log").read_text(encoding="utf-8")


def test_a_job_that_somebody_cancels_does_not_queue_again(here: Home) -> None:
    program(here, "squeue", "echo COMPLETING")
    job = submitted(here, "long")
    until(lambda: "2 running" in log(here), job)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=120) == 143 and "everything is kept" in log(here)
    assert not (here.folder / "asked").exists()


def test_a_job_whose_time_is_up_queues_again_until_its_study_is_done(here: Home) -> None:
    first = submitted(here, "long")
    until(lambda: "2 running" in log(here), first)
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=120) == 0 and "everything is kept" in log(here)
    assert (here.folder / "asked").read_text() == "requeue 17\n"
    again = submitted(here, "long")
    assert again.wait(timeout=240) == 0 and "long: 2 complete" in log(here)
    assert (here.folder / "asked").read_text() == "requeue 17\n"  # once


def test_a_job_that_fails_does_not_queue_again(here: Home) -> None:
    job = submitted(here, "unknown")
    assert job.wait(timeout=120) == 2 and "unknown" in log(here) and not (here.folder / "asked").exists()


def test_a_job_whose_ray_does_not_start_ends_and_says_why(here: Home) -> None:
    program(here, "srun", "echo Invalid partition; exit 1")
    program(here, "ray", "exit 1")
    assert submitted(here, "long", **TWO_NODES).wait(timeout=60) == 1
    assert log(here) == "Ray did not start; ray-17.log says why\n"
    assert (here.folder / "ray-17.log").read_text() == "Invalid partition\n"


def test_a_node_whose_head_is_missing_does_not_wait_for_ever(here: Home) -> None:
    program(here, "srun", 'export SLURM_PROCID=1 SECONDS=301; "${@:3}"')
    program(here, "ray", "exit 1")
    assert submitted(here, "long", **TWO_NODES).wait(timeout=60) == 1
    assert ":20017" in (here.folder / "ray-17.log").read_text()


def test_a_job_that_must_leave_before_ray_has_started_queues_again(here: Home) -> None:
    program(here, "srun", "sleep 20")
    program(here, "ray", "touch asks; exit 1")
    job = submitted(here, "long", **TWO_NODES)
    until((here.folder / "asks").exists, job)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=60) == 0
    assert (here.folder / "asked").read_text() == "requeue 17\n"


def test_the_nodes_of_a_job_get_the_token_and_no_password(here: Home) -> None:
    canary = "kanari3nvogel-77"
    secrets = {
        "PEFTSWEEP_STORAGE": f"postgresql://me:{canary}@127.0.0.1:{free_port()}/studies",
        "MLFLOW_TRACKING_URI": f"http://me:{canary}@127.0.0.1:{free_port()}",
    }
    secrets |= dict.fromkeys(("PGPASSWORD", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"), canary)
    program(here, "srun", 'for SLURM_PROCID in 0 1; do export SLURM_PROCID; "${@:3}"; done; touch up')
    answers = "[[ -e up || -n $SLURM_PROCID ]]"
    program(here, "ray", f'[[ $1 != start ]] && {{ {answers}; exit; }}; (echo "$@"; env) > node-$SLURM_PROCID')
    assert submitted(here, "long", **secrets, **TWO_NODES, RAY_AUTH_TOKEN="t0k3n").wait(timeout=120) == 1
    assert ":20017' cannot be used" in log(here)  # no cluster is at this address
    head, other = ((here.folder / f"node-{number}").read_text() for number in range(2))
    assert " --head --port=20017 " in head and ":20017\n" in other
    for node in (head, other):
        assert "RAY_AUTH_MODE=token\n" in node and "RAY_AUTH_TOKEN=t0k3n\n" in node and canary not in node


def test_the_job_asks_slurm_for_a_signal_in_time_and_for_another_run() -> None:
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE))
    assert asked["signal"] == "B:TERM@120" and "requeue" in asked  # B: the script, not Ray's nodes
    assert asked["open-mode"] == "append"  # the log of the jobs before is kept
