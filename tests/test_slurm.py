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
from tests.studies import Home, home, until

SCRIPT = Path(__file__).parents[1] / "docs" / "slurm" / "sweep.sbatch"


@pytest.fixture
def here(tmp_path: Path) -> Home:
    """A working folder with a study, and a folder with programs of SLURM."""
    here = home(tmp_path)
    (here.folder / "sweeps").mkdir()
    here.study("sweeps/long", train={"epochs": 150, "evals_per_epoch": 1}, search={"trials": 2})
    programs = here.folder / "bin"
    programs.mkdir()
    (programs / "scontrol").write_text('#!/bin/sh\necho "$@" >> asked\n')
    (programs / "scontrol").chmod(0o755)
    return here


def submitted(here: Home, *studies: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(here.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    slurm = {"SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": "17"}
    env = os.environ | {"PATH": path, "PYTHONPATH": python_path()} | slurm
    with (here.folder / "log").open("w") as log:
        return subprocess.Popen(["bash", str(SCRIPT), *studies], cwd=here.folder, env=env, stderr=log, text=True)


def log(here: Home) -> str:
    return (here.folder / "log").read_text(encoding="utf-8")


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


def test_the_job_asks_slurm_for_a_signal_in_time_and_for_another_run() -> None:
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE))
    assert asked["signal"] == "B:TERM@120" and "requeue" in asked  # B: the script, not Ray's nodes
    assert asked["open-mode"] == "append"  # the log of the jobs before is kept
