"""Which passes are captured, and which are replayed? The graphs here replay on a CPU, by doing the work again."""

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
    """A graph whose replay runs the captured function again and writes into the same result."""

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
    """Texts of these lengths in one slot; their tokens count up from `first`."""
    texts = [np.arange(first, first + length) for length in lengths]
    corpus = Corpus(texts, Pooling(last=True, pad_token_id=0, first_position=0))
    return MicroBatch(pack_texts([0], [np.arange(len(texts))], corpus, CPU, "tiles", tiles_for=1), {0: (0, 0)})


class Sums:
    """A function to capture: it sums the tokens of a pass, and counts how often it really ran."""

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


def test_a_shape_is_captured_once_and_replayed_on_other_tokens() -> None:
    sums = Sums()
    passes = CudaGraphs()
    assert passes(sums, micro_batch(3)).item() == 1 + 2 + 3 and sums.worked == 1  # the first pass runs without a graph
    assert passes(sums, micro_batch(4)).item() == 10 and sums.captured == 1
    first = passes(sums, micro_batch(4, first=2))
    assert first.item() == 14 and (sums.captured, sums.worked) == (1, 1)
    passes(sums, micro_batch(4, first=3))
    assert first.item() == 14  # later replays do not overwrite a returned result


def test_each_shape_gets_its_own_graph_and_a_larger_one_starts_a_new_pool() -> None:
    sums = Sums()
    passes = CudaGraphs()
    for lengths in ((3,), (60,), (20, 20), (60,), (20, 20)):
        passes(sums, micro_batch(*lengths))
    assert sums.captured == 2 and len(passes.known) == 2
    pool = passes.pool
    passes(sums, micro_batch(300))  # 512 rows
    assert len(passes.known) == 1 and passes.pool is not pool and passes.largest == 512
    passes(sums, micro_batch(60))
    assert sums.captured == 4 and passes.largest == 512


def test_coming_passes_are_captured_ahead_unless_one_is_the_largest_so_far() -> None:
    sums = Sums()
    passes = CudaGraphs()
    passes.prepare(sums, [micro_batch(60)])
    assert (sums.captured, sums.worked) == (0, 0)  # the first call must run without a graph
    passes(sums, micro_batch(60))
    passes.prepare(sums, [micro_batch(60)])
    assert sums.captured == 0  # it would be the first graph of the pool
    passes(sums, micro_batch(60))
    passes.prepare(sums, [micro_batch(20, 20), micro_batch(300)])  # 512 rows, which need a new pool
    assert sums.captured == 1
    for _ in range(2):
        passes.prepare(sums, [micro_batch(20, 20), micro_batch(60)])
    assert sums.captured == passes.captured == 2 and len(passes.known) == 2
    assert passes(sums, micro_batch(20, 20, first=3)).item() == 2 * sum(range(3, 23)) and sums.captured == 2
    assert sums.worked == 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), RuntimeError("not permitted")])
def test_a_pass_whose_early_capture_failed_runs_when_it_is_due(error: Exception) -> None:
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


def test_a_coming_shape_is_not_dropped_to_make_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "SHAPES", 2)
    sums = Sums()
    passes = CudaGraphs()
    for lengths in ((60,), (60,), (20, 20)):
        passes(sums, micro_batch(*lengths))
    passes.prepare(sums, [micro_batch(60), micro_batch(5, 5, 5, 5)])
    passes(sums, micro_batch(60))
    passes(sums, micro_batch(5, 5, 5, 5))
    assert sums.captured == 3


def test_the_oldest_shapes_are_dropped_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "SHAPES", 2)
    sums = Sums()
    passes = CudaGraphs()
    for count in (1, 1, 2, 4, 1):  # batches of 1, 2 and 4 texts
        passes(sums, micro_batch(*[5] * count))
    assert len(passes.known) == 2 and sums.captured == 4


@pytest.mark.parametrize("broken", [False, True])
def test_a_base_that_cannot_be_captured_runs_without_graphs(monkeypatch: pytest.MonkeyPatch, broken: bool) -> None:
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
        RuntimeError("CUDA error: out of memory"),  # the driver's error
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
@pytest.mark.parametrize("broken", [False, True])
def test_out_of_memory_in_a_capture_is_out_of_memory_in_the_step(
    monkeypatch: pytest.MonkeyPatch, error: Exception, broken: bool
) -> None:
    """This holds even if ending the capture fails, which would raise another error."""
    monkeypatch.setattr(Replay, "broken", broken)
    passes, sums = CudaGraphs(), Sums(error)
    passes(sums, micro_batch(3))
    with pytest.raises(torch.OutOfMemoryError):
        passes(sums, micro_batch(4))
    assert not passes.refused and not passes.known


def test_a_signal_in_a_capture_is_not_blamed_on_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replay, "broken", True)
    passes, sums = CudaGraphs(), Sums(KeyboardInterrupt())
    passes(sums, micro_batch(3))
    with pytest.raises(KeyboardInterrupt):
        passes(sums, micro_batch(4))
    assert not passes.refused and not passes.known
