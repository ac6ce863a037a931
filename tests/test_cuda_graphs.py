"""Which passes are captured and which are replayed, with graphs that a CPU can replay: by doing the work again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from peftsweep.engine import cuda_graphs
from peftsweep.engine.batching import MicroBatch
from peftsweep.engine.corpus import Corpus, Pooling
from peftsweep.engine.cuda_graphs import CudaGraphs
from peftsweep.engine.text_packing import pack_texts

CPU = torch.device("cpu")


class Replay:
    """A graph whose replay runs what was captured, into the same result."""

    capturing: Replay | None = None
    broken = False

    def __init__(self) -> None:
        self.again: Callable[[], object] = lambda: None

    def capture_begin(self, **options: Any) -> None:
        Replay.capturing = self

    def capture_end(self) -> None:
        Replay.capturing = None
        if Replay.broken:
            raise RuntimeError("operation failed due to a previous error during capture")

    def replay(self) -> None:
        self.again()


@pytest.fixture(autouse=True)
def replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Replay)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


def micro_batch(*lengths: int, first: int = 1) -> MicroBatch:
    """One slot's texts of these lengths, whose tokens count up."""
    texts = [np.arange(first, first + length) for length in lengths]
    corpus = Corpus(texts, Pooling(last=True, pad_token_id=0, first_position=0))
    return MicroBatch(pack_texts([0], [np.arange(len(texts))], corpus, CPU, "tiles", tiles_for=1), {0: (0, 0)})


class Sums:
    """The sum of a pass's tokens, as a function that can be captured; and how often it was really worked out."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.worked, self.captured = error, 0, 0

    def __call__(self, given: MicroBatch) -> torch.Tensor:
        graph = Replay.capturing
        if graph is None:
            self.worked += 1
            return given.rows.input_ids.sum()[None]
        if self.error is not None:
            raise self.error
        self.captured += 1
        out = given.rows.input_ids.sum()[None]
        graph.again = lambda: out.copy_(given.rows.input_ids.sum()[None])
        return out


def test_a_shape_is_captured_once_and_replayed_on_other_numbers() -> None:
    sums = Sums()
    passes = CudaGraphs()
    assert passes(sums, micro_batch(3)).item() == 1 + 2 + 3 and sums.worked == 1  # the first as it is
    assert passes(sums, micro_batch(4)).item() == 10 and sums.captured == 1
    first = passes(sums, micro_batch(4, first=2))
    assert first.item() == 14 and (sums.captured, sums.worked) == (1, 1)
    passes(sums, micro_batch(4, first=3))
    assert first.item() == 14  # nobody writes over a result that was given out


def test_other_shapes_get_graphs_of_their_own_and_a_larger_one_begins_anew() -> None:
    sums = Sums()
    passes = CudaGraphs()
    for lengths in ((3,), (60,), (20, 20), (60,), (20, 20)):
        passes(sums, micro_batch(*lengths))
    assert sums.captured == 2 and len(passes.known) == 2
    pool = passes.pool
    passes(sums, micro_batch(90))  # 128 rows
    assert len(passes.known) == 1 and passes.pool is not pool and passes.largest == 128
    passes(sums, micro_batch(60))
    assert sums.captured == 4 and passes.largest == 128


def test_passes_to_come_are_captured_ahead_unless_one_of_them_is_the_largest() -> None:
    sums = Sums()
    passes = CudaGraphs()
    passes.prepare(sums, [micro_batch(60)])
    assert (sums.captured, sums.worked) == (0, 0)  # the first call is to be made as it is
    passes(sums, micro_batch(60))
    passes.prepare(sums, [micro_batch(60)])
    assert sums.captured == 0  # it would begin the pool
    passes(sums, micro_batch(60))
    passes.prepare(sums, [micro_batch(20, 20), micro_batch(90)])  # 128 rows, for which the pool begins anew
    assert sums.captured == 1
    for _ in range(2):
        passes.prepare(sums, [micro_batch(20, 20), micro_batch(60)])
    assert sums.captured == passes.captured == 2 and len(passes.known) == 2
    assert passes(sums, micro_batch(20, 20, first=3)).item() == 2 * sum(range(3, 23)) and sums.captured == 2
    assert sums.worked == 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), RuntimeError("not permitted")])
def test_a_capture_ahead_that_fails_leaves_the_pass_to_be_made_when_it_is_due(error: Exception) -> None:
    sums = Sums()
    passes = CudaGraphs()
    for _ in range(2):
        passes(sums, micro_batch(60))
    sums.error = error
    with pytest.raises(torch.OutOfMemoryError) if isinstance(error, torch.OutOfMemoryError) else nullcontext():
        passes.prepare(sums, [micro_batch(20, 20)])
    sums.error = None
    assert passes(sums, micro_batch(20, 20)).item() == 420
    assert passes.refused == (not isinstance(error, torch.OutOfMemoryError)) == (sums.worked == 2)


def test_what_is_to_come_is_not_what_makes_room_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "SHAPES", 2)
    sums = Sums()
    passes = CudaGraphs()
    for lengths in ((60,), (60,), (20, 20)):
        passes(sums, micro_batch(*lengths))
    passes.prepare(sums, [micro_batch(60), micro_batch(5, 5, 5, 5)])
    passes(sums, micro_batch(60))
    passes(sums, micro_batch(5, 5, 5, 5))
    assert sums.captured == 3


def test_the_oldest_shapes_go_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "SHAPES", 2)
    sums = Sums()
    passes = CudaGraphs()
    for count in (1, 1, 2, 4, 1):  # batches of 1, 2 and 4 texts
        passes(sums, micro_batch(*[5] * count))
    assert len(passes.known) == 2 and sums.captured == 4


@pytest.mark.parametrize("broken", [False, True])
def test_a_base_that_cannot_be_captured_is_run_as_it_is(monkeypatch: pytest.MonkeyPatch, broken: bool) -> None:
    monkeypatch.setattr(Replay, "broken", broken)
    sums = Sums(RuntimeError("operation not permitted when stream is capturing"))
    said: list[str] = []
    passes = CudaGraphs(said.append)
    assert [passes(sums, micro_batch(n)).item() for n in (3, 4, 5)] == [6, 10, 15]
    assert sums.worked == 3 and passes.refused and not passes.known
    assert said == [
        "graphs: the base cannot be captured, so steps are slower: operation not permitted when stream is capturing"
    ]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no room"),
        RuntimeError("CUDA error: out of memory"),  # of the driver
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
@pytest.mark.parametrize("broken", [False, True])
def test_out_of_memory_in_a_capture_is_the_step_s_own(
    monkeypatch: pytest.MonkeyPatch, error: Exception, broken: bool
) -> None:
    """Also where the capture cannot be ended any more, which would be another error."""
    monkeypatch.setattr(Replay, "broken", broken)
    passes, sums = CudaGraphs(), Sums(error)
    passes(sums, micro_batch(3))
    with pytest.raises(torch.OutOfMemoryError):
        passes(sums, micro_batch(4))
    assert not passes.refused and not passes.known


def test_a_signal_in_a_capture_is_no_fault_of_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replay, "broken", True)
    passes, sums = CudaGraphs(), Sums(KeyboardInterrupt())
    passes(sums, micro_batch(3))
    with pytest.raises(KeyboardInterrupt):
        passes(sums, micro_batch(4))
    assert not passes.refused and not passes.known
