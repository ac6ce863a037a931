"""When are checkpoints written, and does training wait for them?"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from peftsweep.engine import Pack, Trial, TrialEnded, checkpoint, checkpoints
from tests.packs import SINGLE, Watched, pack_of
from tests.test_engine import trial
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"), "bert")


def training(base: Path, trials: list[Trial], every: float) -> Watched:
    """A pack that trains these trials, and saves each after so many seconds."""
    pack = pack_of(base, SINGLE, "lora", trials, len(trials), checkpoint_every=every)
    pack.admit(trials)
    return pack


def step(pack: Pack, times: int = 1, *, then: Callable[[], object] = lambda: None) -> None:
    for _ in range(times):
        pack.decide([True] * len(pack.undecided))
        pack.step()
        then()


def saved(one: Trial) -> list[str]:
    return sorted(folder.name for folder in one.folder.glob("*checkpoint-*"))


class SlowDisk:
    """Holds back the first file of each checkpoint until it is told to go on, and may be full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.began, self.full = threading.Event(), threading.Event(), False
        write = checkpoint.save_file

        def held(tensors: object, file: object, *rest: object) -> None:
            self.began.set()
            assert self.go.wait(60)
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(tensors, file, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr("safetensors.torch.save_file", held)
        monkeypatch.setattr(checkpoint, "save_file", held)


def test_nothing_is_saved_before_it_is_due(base: Path, tmp_path: Path) -> None:
    one = trial(0, tmp_path, evals_per_epoch=1)
    pack = training(base, [one], every=3600.0)
    step(pack, 7)
    pack.checkpoints.finish()
    assert len(pack.slots.occupied[0].evaluations) == 1 and saved(one) == []
    pack.release()


def test_a_step_saves_one_slot_the_one_saved_longest_ago(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "DISK_SHARE", 1.0)  # no rest for the disk
    trials = [trial(i, tmp_path, evals_per_epoch=1) for i in range(3)]
    pack = training(base, trials, every=0.0)
    seen: list[list[str]] = []

    def look() -> None:
        pack.checkpoints.finish()
        seen.append([name[-9:-3] for one in trials for name in saved(one)[-1:]])

    step(pack, 4, then=look)
    assert seen == [["000001"], ["000001", "000002"], ["000001", "000002", "000003"], ["000004", "000002", "000003"]]
    pack.release()


def test_training_goes_on_while_a_checkpoint_is_written(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, one = SlowDisk(monkeypatch), trial(0, tmp_path, evals_per_epoch=1)
    pack = training(base, [one], every=0.0)
    step(pack, 4)
    assert disk.began.wait(60) and pack.slots.occupied[0].step == 4
    assert [name for name in saved(one) if not name.startswith(".")] == []
    disk.go.set()
    pack.checkpoints.finish()
    assert saved(one) == ["checkpoint-000001-00"]  # as it was when it was copied
    pack.release()


def test_a_slow_disk_gets_a_rest_after_each_checkpoint(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, now = SlowDisk(monkeypatch), 1000.0
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)
    one = trial(0, tmp_path, evals_per_epoch=1)
    pack = training(base, [one], every=0.0)
    step(pack)
    assert disk.began.wait(60)
    now += 10  # seconds that the first one takes
    disk.go.set()
    pack.checkpoints.finish()
    step(pack)
    now += 29
    step(pack)
    pack.checkpoints.finish()
    assert saved(one) == ["checkpoint-000001-00"]  # 10 of 40 seconds are a quarter
    now += 2
    step(pack)
    pack.checkpoints.finish()
    assert saved(one) == ["checkpoint-000004-00"]
    pack.release()


def test_a_checkpoint_has_the_losses_of_all_its_steps(base: Path, tmp_path: Path) -> None:
    """As on a GPU, where a step's loss is read while the next one runs."""
    trials = [trial(0, tmp_path)]
    pack = pack_of(base, SINGLE, "lora", trials, 1, checkpoint_every=0.0)
    pack.results.ahead = 1
    pack.admit(trials)
    pack.step()
    pack.checkpoints.finish()
    folder = checkpoint.newest(trials[0].folder)
    assert folder is not None
    state = checkpoint._state(folder)
    assert state.step == state.loss_count == 1 and state.loss_sum > 0


def test_a_full_disk_ends_training_at_the_end_of_a_step(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "DISK_SHARE", 1.0)  # no rest for the disk
    one = trial(0, tmp_path, evals_per_epoch=1)
    pack = training(base, [one], every=0.0)
    step(pack)
    pack.checkpoints.finish()
    disk = SlowDisk(monkeypatch)
    disk.full = True
    step(pack)
    disk.go.set()
    pack.checkpoints.finish()
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        step(pack)
    assert pack.slots.occupied[0].step == 3 and saved(one) == ["checkpoint-000001-00"]  # the older one is still there
    pack.release()


def test_a_trial_ends_only_when_nothing_is_written_to_its_folder_any_more(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, one = SlowDisk(monkeypatch), trial(0, tmp_path, evals_per_epoch=1)
    pack = training(base, [one], every=0.0)
    step(pack)
    assert disk.began.wait(60)
    while not pack.undecided:
        pack.step()
    pack.outbox.drain()
    threading.Timer(0.5, disk.go.set).start()
    pack.decide([False])
    assert disk.go.is_set() and saved(one) == ["checkpoint-000001-00"]  # the study removes it now
    assert [type(event) for event in pack.outbox.drain()] == [TrialEnded]
    pack.release()


def test_whatever_goes_wrong_while_a_checkpoint_is_written_is_raised_by_the_next_step(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)")

    monkeypatch.setattr(checkpoint, "save_file", broken)
    pack = training(base, [trial(0, tmp_path, evals_per_epoch=1)], every=0.0)
    step(pack)
    pack.checkpoints.finish()
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        step(pack)
    pack.release()
