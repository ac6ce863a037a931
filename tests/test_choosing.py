"""How many workers does a sweep get, and where?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from peftsweep.errors import UsageError
from peftsweep.workers import LocalPool, start_pool
from tests.studies import home


@pytest.mark.parametrize(("gpus", "workers"), [(0, 1), (0, "auto"), (1, 1), (1, "auto"), (4, 1)])
def test_one_worker_trains_in_this_process(gpus: int, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    said: list[str] = []
    assert isinstance(start_pool(workers, None, 600.0, said.append), LocalPool) and said == []  # type: ignore[arg-type]


def test_more_workers_than_gpus_are_as_many_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    said: list[str] = []
    assert isinstance(start_pool(3, None, 600.0, said.append), LocalPool)
    assert said == ["workers: 3 were asked for; this machine has 1 GPU, one for each worker"]


@pytest.mark.parametrize("workers", [0, -1, 2.0, True, "all"])
def test_a_number_of_workers_that_makes_no_sense_is_refused(workers: object, tmp_path: Path) -> None:
    here = home(tmp_path / "home")
    with pytest.raises(UsageError, match=r"^workers: expected 'auto' or a whole number of at least 1, got "):
        here.run(here.study(), workers=workers)
    assert not (here.folder / "studies.db").exists()


def test_a_worker_gets_some_seconds_to_report(tmp_path: Path) -> None:
    here = home(tmp_path / "home")
    with pytest.raises(UsageError, match=r"^worker_timeout: expected at least 10 seconds, got 0.0$"):
        here.run(here.study(), worker_timeout=0.0)
