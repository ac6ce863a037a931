"""Do slots that train side by side on the cores of a CPU give the same results?"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from peftsweep.engine import cpu_workers
from peftsweep.engine.cpu_workers import CpuWorkers, balanced_parts
from peftsweep.task import Task
from tests.numbers import float64, same_losses, same_training, same_weights
from tests.packs import MULTI, SINGLE, Pass, Queue, Watched, before_each_pass, pack_of, run_pack
from tests.stock_training import peft_alone
from tests.test_parity import mixed
from tests.tiny import tiny_model

ALL = [
    ("lora", "llama", MULTI, "float64"),
    pytest.param(("lora", "bert", SINGLE, "bfloat16"), marks=pytest.mark.numbers),
    ("ia3", "bert", MULTI, "float64"),
    # bitsandbytes' matrix products run in threads too
    pytest.param(("qlora", "llama", SINGLE, "float32"), marks=pytest.mark.numbers),
]


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


class Threads:
    """Records which threads run the passes."""

    def __init__(self) -> None:
        self.training, self.evaluation = set[str](), set[str]()

    def __call__(self, one: Pass) -> None:
        (self.training if one.training else self.evaluation).add(threading.current_thread().name)


def trained(
    folder: Path, kind: tuple[str, str, Task, str], see: Callable[[Pass], object] = lambda one: None
) -> tuple[Watched, Queue]:
    """Train five trials in four slots, so that one slot is refilled.

    Args:
        see: a function to call before each pass.
    """
    method, architecture, task, dtype = kind
    base = tiny_model(folder / "base", architecture)
    trials = mixed(folder, method)
    stored = "float32" if dtype == "float64" else dtype
    with float64() if dtype == "float64" else nullcontext():
        pack, queue = pack_of(base, task, method, trials, slots=4, dtype=stored), Queue(trials)
        before_each_pass(pack, see)
        run_pack(pack, queue)
    pack.release()
    assert pack.dtype == getattr(torch, dtype)
    return pack, queue


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: f"{kind[0]}-{kind[1]}-{kind[3]}")
def test_cpu_workers_make_no_difference_to_any_trial(
    tmp_path: Path, kind: tuple[str, str, Task, str], two_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, one = Threads(), Threads()
    ours, found = trained(tmp_path / "workers", kind, two)
    for names in (two.training, two.evaluation):
        assert sum(name.startswith("cpu-worker") for name in names) == 2
    monkeypatch.setattr(cpu_workers, "MAX_WORKERS", 1)
    alone, expected = trained(tmp_path / "alone", kind, one)
    assert one.training == one.evaluation == {threading.current_thread().name}
    assert sorted(ours.last) == [0, 1, 2, 3, 4]
    same_training(ours, alone)
    for number in alone.last:
        scores = [[each.scores["loss"] for each in queue.evaluations[number]] for queue in (found, expected)]
        same_losses(*scores, alone.dtype)


@pytest.mark.parametrize("method", ["lora", "ia3", "qlora"])
def test_every_slot_of_a_cpu_worker_trains_as_stock_peft_alone(
    tmp_path: Path, method: str, two_cores: None, in_float64: None
) -> None:
    folder = tiny_model(tmp_path / "base", "llama")
    trials = mixed(tmp_path, method)
    pack = pack_of(folder, MULTI, method, trials, slots=4)
    run_pack(pack, Queue(trials))
    for trial in trials:
        first = pack.first[trial.number]
        losses, weights = peft_alone(folder, MULTI, method, trial, first)
        same_losses(pack.trace[trial.number], losses, pack.dtype)
        same_weights(pack.last[trial.number], weights, first, pack.dtype)


def test_a_step_that_runs_out_of_memory_in_one_cpu_worker_is_repeated_as_a_whole(
    tmp_path: Path, two_cores: None
) -> None:
    failed: list[Pass] = []

    def fail_once(one: Pass) -> None:
        if one.training and not failed:
            if 1 in one.slots:
                failed.append(one)
                raise torch.OutOfMemoryError("out of memory")
            time.sleep(0.1)  # the other worker continues for a while

    free, _ = trained(tmp_path / "free", ALL[0])
    tight, _ = trained(tmp_path / "tight", ALL[0], fail_once)
    assert failed
    same_training(tight, free)


# Workers without a pack ----------------------------------------------------------------------------------------------


def equal_size(slot: object) -> int:
    return 1


def test_an_error_in_a_cpu_worker_is_raised_after_the_others_and_keeps_no_tensor_alive(two_cores: None) -> None:
    done: list[str] = []
    held: list[Any] = []

    def work(slots: list[str]) -> dict[int, int]:
        tensor = torch.zeros(1)
        held.append(weakref.ref(tensor))
        if slots == ["a"]:
            raise torch.OutOfMemoryError("out of memory")
        time.sleep(0.2)
        done.extend(slots)
        return {}

    both = CpuWorkers(2)
    gc.disable()
    try:
        try:
            both(work, ["a", "b"], equal_size)  # type: ignore[arg-type,list-item]
        except torch.OutOfMemoryError:
            pass
        else:
            raise AssertionError("no error was raised")
        assert done == ["b"] and [ref() for ref in held] == [None, None]
    finally:
        gc.enable()
    both.close()


def test_running_out_of_memory_does_not_hide_another_error(two_cores: None) -> None:
    def work(slots: list[str]) -> dict[int, int]:
        raise torch.OutOfMemoryError("out of memory") if slots == ["a"] else KeyError("a mistake")

    both = CpuWorkers(2)
    with pytest.raises(KeyError):
        both(work, ["a", "b"], equal_size)  # type: ignore[arg-type,list-item]
    both.close()


def test_an_interrupt_waits_for_at_most_one_pass(two_cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    both, passes = CpuWorkers(2), []

    def work(slots: list[str]) -> dict[int, int]:
        for _ in range(100):
            both.check()
            passes.append(slots)
            time.sleep(0.05)
        return {}

    waited = cpu_workers.wait

    def interrupted(parts: Any) -> Any:
        monkeypatch.setattr(cpu_workers, "wait", waited)
        time.sleep(0.1)
        raise KeyboardInterrupt

    monkeypatch.setattr(cpu_workers, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        both(work, ["a", "b"], equal_size)  # type: ignore[arg-type,list-item]
    assert 2 <= len(passes) < 20
    both.close()


def test_each_cpu_worker_has_its_share_of_the_cores_and_all_other_threads_keep_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, threads = torch.get_num_threads(), torch.get_num_threads
    found: list[int] = []

    def count_threads() -> None:
        found.append(threads())

    def in_new_thread() -> int:
        thread = threading.Thread(target=count_threads)
        thread.start()
        thread.join()
        return found[-1]

    torch.set_num_threads(8)
    try:
        four = CpuWorkers(16)
        shares = four(lambda some: {i: threads() for i in some}, list(range(8)), equal_size)  # type: ignore[call-overload]
        assert shares == dict.fromkeys(range(8), 2) and threads() == 8 and in_new_thread() == 8
        four.close()
        assert threads() == 8 and in_new_thread() == 8
    finally:
        torch.set_num_threads(before)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("cpu-worker")]


@pytest.mark.parametrize(
    ("cores", "slots", "count"), [(1, 8, 1), (2, 8, 2), (2, 1, 1), (16, 8, 4), (16, 3, 2), (6, 8, 3), (7, 8, 1)]
)
def test_cores_are_divided_evenly(cores: int, slots: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    some = CpuWorkers(slots)
    assert some.count == count
    some.close()


def test_slots_are_distributed_by_size_and_keep_their_order() -> None:
    slots = ["a", "b", "c", "d", "e"]
    assert balanced_parts(slots, [5, 1, 4, 2, 2], 2) == ([["a", "e"], ["b", "c", "d"]], 7)  # type: ignore[arg-type,comparison-overlap]
    assert balanced_parts(slots[:2], [1, 1], 4) == ([["a"], ["b"]], 1)  # type: ignore[arg-type,comparison-overlap]


@pytest.mark.parametrize(("sizes", "aside"), [([1, 1, 1, 1], True), ([9, 1, 1, 1], False), ([1, 1, 1], False)])
def test_slots_that_cannot_be_distributed_evenly_stay_with_the_caller(
    sizes: list[int], aside: bool, two_cores: None
) -> None:
    both = CpuWorkers(4)
    ran = both(
        lambda some: {i: threading.current_thread().name for i in some}, list(range(len(sizes))), sizes.__getitem__
    )  # type: ignore[call-overload]
    assert all(name.startswith("cpu-worker") == aside for name in ran.values()) and len(ran) == len(sizes)
    both.close()


def test_a_base_with_state_runs_one_pass_at_a_time(
    tmp_path: Path, two_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    base, trials = tiny_model(tmp_path / "base", "llama"), mixed(tmp_path, "lora")
    assert pack_of(base, MULTI, "lora", trials, slots=4).runner.cpu_workers.count == 2
    forward = LlamaRotaryEmbedding.forward

    def moving(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.inv_freq.copy_(self.inv_freq.clone())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaRotaryEmbedding, "forward", moving)
    assert pack_of(base, MULTI, "lora", trials, slots=4).runner.cpu_workers.count == 1
