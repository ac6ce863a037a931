"""Slots side by side on a CPU's cores."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from peftsweep.config import TrainConfig
from peftsweep.engine import Trial, lanes
from peftsweep.engine.lanes import Lanes, dealt
from tests.packs import MULTI, Queue, pack_of
from tests.tiny import tiny_model


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def trained(folder: Path, base: Path, dropout: float) -> tuple[dict[int, list[float]], set[str]]:
    """Losses of five trials of different lengths in three slots, and the threads that their passes ran in."""
    trials = [
        Trial(i, 10 + i, TrainConfig(epochs=1 + i % 2, batch_size=4 + i, rank=2 + i, dropout=dropout), folder / str(i))
        for i in range(5)
    ]
    pack = pack_of(base, MULTI, "lora", trials, slots=3)
    seen: set[str] = set()
    backward = pack.backward

    def watched(wave):  # type: ignore[no-untyped-def]
        seen.add(threading.current_thread().name)
        return backward(wave)

    pack.backward = watched  # type: ignore[method-assign]
    pack.run(Queue(trials))
    pack.release()
    return pack.trace, seen


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_lanes_make_no_difference_to_any_trial(
    tmp_path: Path, architecture: str, dropout: float, two_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_model(tmp_path / "base", architecture)
    ours, threads = trained(tmp_path / "a", base, dropout)
    assert len({name for name in threads if name.startswith("lane")}) == 2
    monkeypatch.setattr(lanes, "MOST", 1)
    alone, threads = trained(tmp_path / "b", base, dropout)
    assert threads == {threading.current_thread().name}
    assert sorted(ours) == sorted(alone) == [0, 1, 2, 3, 4]
    for number, losses in alone.items():
        assert ours[number] == pytest.approx(losses, abs=1e-6)


def test_an_error_in_a_lane_is_everybodys(two_cores: None) -> None:
    def work(slots: object) -> dict[int, int]:
        raise torch.OutOfMemoryError("out of memory")

    both = Lanes(2)
    with pytest.raises(torch.OutOfMemoryError):
        both(work, ["a", "b"], [1, 1])  # type: ignore[list-item]
    both.close()


def test_each_lane_has_its_share_of_the_cores_and_the_caller_keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    before, threads = torch.get_num_threads(), torch.get_num_threads
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    four = Lanes(16)
    found = four(lambda some: {i: threads() for i in some}, list(range(8)), [1] * 8)  # type: ignore[call-overload]
    four.close()
    assert found == dict.fromkeys(range(8), 2) and threads() == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lane")]


def test_slots_are_dealt_by_their_size_in_their_own_order() -> None:
    slots = ["a", "b", "c", "d", "e"]
    assert dealt(slots, [5, 1, 4, 2, 2], 2) == [["a", "e"], ["b", "c", "d"]]  # type: ignore[arg-type,comparison-overlap]
    assert dealt(slots[:2], [1, 1], 4) == [["a"], ["b"]]  # type: ignore[arg-type,comparison-overlap]
