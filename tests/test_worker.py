"""A worker in a process of its own does what one in this process does: messages are the only door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peftsweep.errors import ModelError
from peftsweep.sweep.spawned_worker import SpawnedWorker
from tests.studies import LABELS, Home, home, write
from tests.tiny import tiny_rows


@pytest.fixture
def here(tmp_path: Path) -> Home:
    return home(tmp_path / "home")


TIMES = {"began", "ended", "seconds", "pauses"}


def untimed(value: Any) -> Any:
    """Without what no two runs have in common."""
    if isinstance(value, dict):
        return {key: untimed(each) for key, each in value.items() if key not in {*TIMES, "at"}}
    return [untimed(each) for each in value] if isinstance(value, list) else value


def kept(here: Home, result: Any) -> tuple[Any, dict[str, bytes]]:
    """What a study's trials keep, and the bytes of all adapters, predictions and reports."""
    trials = [
        (trial.number, trial.state, trial.params, trial.values, trial.intermediate_values, untimed(trial.user_attrs))
        for trial in result.study.trials
    ]
    root = here.folder / "artifacts"
    files = {
        str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("trial-*/**/*")) if file.is_file()
    }
    return (trials, untimed(result.study.user_attrs.get("test"))), files


def test_a_spawned_worker_leaves_the_same_study_byte_for_byte(here: Home, tmp_path: Path) -> None:
    test = write(here.folder / "test.csv", tiny_rows(LABELS, 24, 3, single="label"))
    search = {"sampler": "tpe", "trials": 4, "pruner": {"reduction": 2, "min_evals": 1}}
    study = here.study(data={"test": str(test)}, search=search)
    found = []
    for start in ({}, {"start": SpawnedWorker}):
        found.append(kept(here, here.run(study, slots=1, **start)))
        (here.folder / "studies.db").unlink()
        (here.folder / "artifacts").rename(tmp_path / f"artifacts-{len(found)}")
    (trials, files), (others, other_files) = found
    assert trials == others and files.keys() == other_files.keys()
    assert any(name.endswith("adapter_model.safetensors") for name in files) and trials[1] is not None
    assert [name for name in files if files[name] != other_files[name]] == []


def test_an_error_of_a_spawned_worker_is_the_one_that_this_process_would_raise(here: Home) -> None:
    study = here.study(data={"max_length": 4096})
    with pytest.raises(ModelError, match=r"data\.max_length: 4096 is above"):
        here.run(study, start=SpawnedWorker)
