"""What only a GPU can show: the adapters' kernels, attention over texts of any length, NF4, compiled blocks, memory."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import pytest
import torch
import torch._dynamo

from peftsweep.config import ModelConfig, TrainConfig
from peftsweep.engine import Limits, Pack, Trial, capped, plan
from peftsweep.engine.corpus import Corpus, Pooling
from peftsweep.engine.cuda_graphs import CudaGraphs
from peftsweep.engine.schedule import Schedule
from peftsweep.engine.slot import Slot
from peftsweep.engine.step_results import StepResults
from peftsweep.engine.text_packing import pack_texts
from peftsweep.methods import METHODS
from peftsweep.models import linear_names, load_base
from peftsweep.task import Task
from tests.gpu import MARKS
from tests.numbers import PROMISED, same_training, same_weights
from tests.packs import (
    MULTI,
    SINGLE,
    Pass,
    Queue,
    Texts,
    Watched,
    before_each_pass,
    run_pack,
    with_the_whole_block,
)
from tests.stock_training import peft_alone
from tests.studies import Home, home
from tests.test_parity import mixed
from tests.tiny import ARCHITECTURES, DECODER, tiny_model

pytestmark = MARKS
METHOD_NAMES = ["lora", "ia3", "qlora"]
GPU = torch.device("cuda:0")
BF16 = PROMISED[torch.bfloat16]


@pytest.fixture(autouse=True)
def clean_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start as if every earlier pack had been released. Most tests do not release theirs: reference cycles keep it and
    its graphs alive, and its compiled code counts towards torch's limit. Reaching that limit is an error here."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)


P = TypeVar("P", bound=Pack)


@overload
def pack_on_gpu(
    folder: Path,
    task: Task,
    method: str,
    trials: list[Trial],
    slots: int,
    dtype: str = "float32",
    *,
    kind: type[P],
    train: Texts | None = None,
    **options: Any,
) -> P: ...
@overload
def pack_on_gpu(
    folder: Path,
    task: Task,
    method: str,
    trials: list[Trial],
    slots: int,
    dtype: str = "float32",
    *,
    train: Texts | None = None,
    **options: Any,
) -> Watched: ...
def pack_on_gpu(
    folder: Path,
    task: Task,
    method: str,
    trials: list[Trial],
    slots: int,
    dtype: str = "float32",
    *,
    kind: type[Pack] = Watched,
    train: Texts | None = None,
    **options: Any,
) -> Pack:
    """A pack that uses the kernels which fit its texts and dtype."""
    config = ModelConfig(id=str(folder), dtype=dtype)  # type: ignore[arg-type]
    base = load_base(config, task, four_bit=METHODS[method].four_bit, device=GPU)
    adapters = METHODS[method](base.model, linear_names(base.model))
    candidates = [trial.params for trial in trials]
    train, validation = train or Texts(task, 37, 1), Texts(task, 12, 2)
    pack = kind(base.model, adapters, task, train, validation, candidates=candidates, slots=slots, **options)
    kernel = "tiles" if np.mean([len(text) for text in train.input_ids]) <= 128 else "varlen"
    assert pack.packed.last is not None  # the last block runs on the pooled tokens only
    assert pack.packed.context.fused and pack.packed.attention == (kernel if dtype == "bfloat16" else "padded")
    return pack


def graphs_of(pack: Pack) -> CudaGraphs:
    assert pack.runner.graphs is not None
    return pack.runner.graphs


def blocks_of(pack: Pack) -> Any:
    """The decoder's blocks, in order."""
    return pack.packed.backbone.layers


def on_cpu(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.cpu() for key, value in weights.items()}


@pytest.mark.parametrize("task", [MULTI, SINGLE], ids=lambda task: task.kind)
@pytest.mark.parametrize("architecture", ["llama", "bert"])
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_the_gpu_trains_as_stock_peft_does_on_a_cpu(tmp_path: Path, method: str, architecture: str, task: Task) -> None:
    folder = tiny_model(tmp_path / "base", architecture)
    trials = mixed(tmp_path, method)
    pack = pack_on_gpu(folder, task, method, trials, slots=3)
    run_pack(pack, Queue(trials))
    # Other kernels add in another order, and Adam divides by numbers near zero: after a few steps the weights differ.
    tolerance = 0.02 if method == "qlora" else 2e-3
    for trial in trials:
        first, last = on_cpu(pack.first[trial.number]), on_cpu(pack.last[trial.number])
        losses, weights = peft_alone(folder, task, method, trial, first)
        worst = max(abs(a - b) for a, b in zip(pack.trace[trial.number], losses, strict=True))
        assert worst < tolerance, f"trial {trial.number}: {worst}"
        apart = [
            float((ours.reshape(theirs.shape) - theirs).norm())
            for ours, theirs in zip(last.values(), weights.values(), strict=True)
        ]
        moved = [float((last[key] - first[key]).norm()) for key in last]
        assert sum(apart) < 0.1 * sum(moved), f"trial {trial.number}: {sum(apart)} of {sum(moved)}"


@pytest.mark.parametrize(
    ("architecture", "method", "compiled", "long"),
    [("llama", method, compiled, False) for method in METHOD_NAMES for compiled in (False, True)]
    + [("bert", "lora", True, False), ("gemma3", "lora", True, False), ("gemma3", "qlora", True, False)]
    + [("llama", "lora", False, True), ("llama", "qlora", True, True), ("gemma3", "ia3", True, True)]
    + [("bert", "lora", False, True)],
)
def test_a_hundred_steps_in_bf16_follow_stock_peft(
    tmp_path: Path, architecture: str, method: str, compiled: bool, long: bool
) -> None:
    """Long texts use attention over texts of any length. gemma3's windows have 16 tokens here."""
    folder = tiny_model(tmp_path / "base", architecture)
    changes: dict[str, Any] = {"learning_rate": 5e-3} if method == "ia3" else {"learning_rate": 1e-3, "rank": 8}
    params = TrainConfig(epochs=20, batch_size=8, **changes)
    trials = [Trial(i, i, params, tmp_path / str(i)) for i in range(3)]
    train = Texts(MULTI, 37, 1, 150, 250) if long else Texts(MULTI, 37, 1)
    pack = pack_on_gpu(folder, MULTI, method, trials, 3, dtype="bfloat16", compiled=compiled, train=train)
    known: list[int] = []

    class Counting(Queue):
        def stepped(self, slots: Any) -> bool:
            known.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
            return super().stepped(slots)

    run_pack(pack, Counting(trials))
    assert known[9] == known[-1] and known[-1] - known[0] < (4 if compiled else 1), (
        known
    )  # nothing is compiled in mid-sweep
    last_block = pack.packed.last
    assert last_block is not None and (last_block.run != last_block._run) == compiled
    assert graphs_of(pack).captured and not graphs_of(pack).refused
    first, last, ours = on_cpu(pack.first[1]), on_cpu(pack.last[1]), pack.trace[1]
    alone: dict[str, Any] = {"dtype": "bfloat16", "device": GPU, "train": train}
    losses, weights = peft_alone(folder, MULTI, method, trials[1], first, **alone)
    idle, _ = peft_alone(folder, MULTI, method, trials[1], first, **alone, head_only=True)
    assert len(ours) == 100 and apart(ours, losses) <= BF16.losses
    assert apart(idle, losses) > 2 * BF16.losses  # untrained adapters would be noticed
    theirs = dict(zip(last, weights.values(), strict=True))
    wrong = sum(float((last[key].reshape(theirs[key].shape) - theirs[key]).norm()) for key in last)
    assert wrong <= BF16.weights * sum(float((last[key] - first[key]).norm()) for key in last)


def test_a_last_block_that_runs_on_all_tokens_is_compiled_and_captured_like_the_others(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base", "llama")
    params = TrainConfig(epochs=4, batch_size=8, learning_rate=1e-3)
    traces, weights = [], []
    for whole in (False, True):
        trials = [Trial(i, i, params, tmp_path / f"{whole}-{i}") for i in range(3)]
        pack = pack_on_gpu(folder, MULTI, "lora", trials, 3, dtype="bfloat16", compiled=True)
        if whole:
            with_the_whole_block(pack)
        run_pack(pack, Queue(trials))
        assert graphs_of(pack).captured and not graphs_of(pack).refused
        block = blocks_of(pack)[-1]
        assert ("forward" in vars(block)) != whole and (block._compiled_call_impl is not None) == whole
        traces.append(pack.trace[1])
        weights.append(pack.last[1])
        moved = distance(pack.last[1], pack.first[1])
    assert len(traces[0]) == 20 and apart(*traces) <= BF16.losses
    assert distance(*weights) <= BF16.weights * moved


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The sum of the norms of the weights' differences."""
    assert ours.keys() == theirs.keys()
    return sum(float((ours[key] - theirs[key]).norm()) for key in ours)


def apart(ours: list[float], theirs: list[float]) -> float:
    """The largest relative difference of the losses."""
    return max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_a_slot_s_gradients_in_bf16_are_those_that_it_has_alone(tmp_path: Path, method: str, long: bool) -> None:
    """Gradients are compared before the optimizer can amplify rounding errors."""
    folder = tiny_model(tmp_path / "base", "llama")
    params = TrainConfig(rank=4, dropout=0.0 if method == "ia3" else 0.3, batch_size=8)
    train = Texts(SINGLE, 60, 1, 150, 250) if long else Texts(SINGLE, 60, 1)

    def one(number: int, **changes: Any) -> Trial:
        return Trial(number, 100 + number, params.model_copy(update=changes), tmp_path / str(number))

    def gradients(last: Trial, others: list[Trial]) -> torch.Tensor:
        """The gradients of `last` after one forward and backward pass of all these trials."""
        bounds = [one(9, rank=9), last]
        pack = pack_on_gpu(folder, SINGLE, method, bounds, 4, dtype="bfloat16", train=train, kind=Pack)
        for index, other in enumerate(others):
            pack.slots.put(index, other)
        slot = pack.slots.put(3, last)
        for part in pack.stack.split(slot.index, pack.stack.weights[slot.index], last.params).values():
            part.add_(0.01)  # so that no factor of a gradient is zero
        pack.runner.accumulate_gradients(pack.slots.occupied)
        parts = pack.stack.split(slot.index, pack.stack.grads[slot.index], last.params)
        return torch.cat([part.reshape(-1) for part in parts.values()])

    alone = gradients(one(0), [])
    crowd = gradients(one(0), [one(i, rank=1 + 2 * i, batch_size=3 + 4 * i) for i in range(1, 4)])
    other = gradients(one(0, batch_size=7), [])
    assert float((crowd - alone).norm() / alone.norm()) <= BF16.step
    assert float((other - alone).norm() / alone.norm()) > 5 * BF16.step  # a missing text would be noticed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_neighbours_do_not_matter_on_a_gpu(tmp_path: Path, method: str, dtype: str) -> None:
    """In bfloat16, attention works on tiles, and steps are replayed as graphs."""
    folder = tiny_model(tmp_path / "base", "llama")
    params = TrainConfig(rank=4, dropout=0.3, learning_rate=5e-3, batch_size=8, epochs=2)

    def trial(number: int, where: str, **changes: Any) -> Trial:
        return Trial(number, 100 + number, params.model_copy(update=changes), tmp_path / where / str(number))

    alone = pack_on_gpu(folder, SINGLE, method, [trial(0, "a")], 1, dtype)
    run_pack(alone, Queue([trial(0, "a")]))
    others = [trial(i, "b", rank=1 + 2 * i, batch_size=3 + 4 * i, dropout=0.1 * i) for i in range(1, 5)]
    crowd = [*others, trial(0, "b")]
    packed = pack_on_gpu(folder, SINGLE, method, crowd, 4, dtype)
    run_pack(packed, Queue(crowd))
    ours, theirs, first = packed.last[0], alone.last[0], alone.first[0]
    same_weights(ours, theirs, first, getattr(torch, dtype))
    if dtype == "bfloat16":
        assert graphs_of(packed).known and not graphs_of(packed).refused


def test_weights_and_moments_beyond_a_trial_s_own_rank_stay_zero_on_a_gpu(tmp_path: Path) -> None:
    """Kernels and updates run at the pack's widest rank. Every bit is compared."""
    folder = tiny_model(tmp_path / "base", "llama")
    params = TrainConfig(dropout=0.2, learning_rate=5e-3, weight_decay=0.1, batch_size=8, epochs=2)
    trials = [
        Trial(i, i, params.model_copy(update={"rank": rank}), tmp_path / str(i)) for i, rank in enumerate((1, 5, 16))
    ]
    queue = Queue(trials)
    queue.stop_after = 7
    pack = pack_on_gpu(folder, SINGLE, "lora", trials, 3, dtype="bfloat16")
    run_pack(pack, queue)
    assert len(pack.slots.occupied) == 3 and graphs_of(pack).known
    for slot in pack.slots.occupied:
        for matrix in (pack.stack.weights, *pack.stack.moments.values()):
            row = matrix[slot.index].clone()
            for part in pack.stack.split(slot.index, row, slot.trial.params).values():
                assert part.any()
                part.zero_()
            assert not row.any()


@pytest.mark.parametrize(
    ("architecture", "method", "before", "compiled", "long"),
    [
        ("llama", "lora", 0, False, False),
        ("llama", "ia3", 0, False, False),
        ("llama", "ia3", 3, False, False),
        ("llama", "lora", 3, False, False),
        ("llama", "qlora", 3, False, False),
        ("llama", "lora", 3, True, False),
        ("llama", "qlora", 3, True, False),
        ("llama", "lora", 3, False, True),
        ("gemma3", "lora", 3, False, True),
        ("gemma3", "lora", 3, False, False),
        ("bert", "lora", 3, False, False),
    ],
)
def test_a_nan_leaves_the_others_bit_equal_to_a_run_with_that_slot_empty(
    tmp_path: Path, architecture: str, method: str, before: int, compiled: bool, long: bool
) -> None:
    """The NaN appears in the first step, or later, when passes are replayed as graphs. Long texts do not use our own
    attention kernel: a tile of one text must not multiply a neighbour's rows (0 · NaN)."""
    folder = tiny_model(tmp_path / "base", architecture)
    # The broken slot's text has 39 tokens, so that without it the rows are filled up to the same number. No text has
    # more than two blocks of 128 keys, because flash attention adds the blocks' parts of a gradient in any order.
    train = Texts(SINGLE, 37, 22, 20, 250) if long else Texts(SINGLE, 37, 1)
    params = TrainConfig(rank=4, dropout=0.3, learning_rate=5e-3, batch_size=8, epochs=4)
    trials = [
        Trial(i, i, params if i != 1 else params.model_copy(update={"batch_size": 1}), tmp_path / str(i))
        for i in range(3)
    ]
    broken, empty = (pack_on_gpu(folder, SINGLE, method, trials, 3, dtype="bfloat16", train=train) for _ in range(2))
    queue = Queue(trials)
    for pack in (broken, empty):
        for i, one in enumerate(trials):
            pack.slots.put(i, one)
        if compiled:
            pack.packed.compile()
        for _ in range(before):
            pack.step()
    assert torch.equal(broken.stack.weights, empty.stack.weights)
    assert bool(graphs_of(broken).known) == (before > 1)
    empty.slots.vacate(empty.slots.occupied[1])
    broken.stack.weights[1].fill_(float("nan"))
    assert (
        broken.batcher.micro_batches(broken.slots.occupied, broken.runner.limits)[0].rows.input_ids.shape
        == empty.batcher.micro_batches(empty.slots.occupied, empty.runner.limits)[0].rows.input_ids.shape
    )
    for _ in range(5):
        broken.step()
        empty.step()
    queue.answer(broken.outbox.drain())
    assert queue.results[1].reason == f"loss is nan at step {before + 1}"
    assert torch.equal(broken.stack.weights[[0, 2]], empty.stack.weights[[0, 2]])
    assert not broken.stack.weights[1].any() and float(broken.stack.weights[0].abs().max()) > 0


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_a_pack_that_is_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, method: str) -> None:
    """One trial is restored before the second pack's first step, another later, when there are graphs."""
    folder = tiny_model(tmp_path / "base", "llama")
    params = TrainConfig(rank=4, dropout=0.2, learning_rate=2e-3, batch_size=8, epochs=4)

    def run(where: str, stop_after: int | None, order: tuple[int, ...] = (0, 1, 2)) -> tuple[Any, Queue]:
        trials = [Trial(i, i, params, tmp_path / where / str(i)) for i in order]
        queue = Queue(trials)
        queue.stop_after = stop_after
        pack = pack_on_gpu(folder, SINGLE, method, trials, 2, dtype="bfloat16")
        run_pack(pack, queue)
        return pack, queue

    free, _ = run("free", None)
    _, stopped = run("stopped", 7)
    assert not stopped.results
    again, queue = run("stopped", None, order=(2, 0, 1))
    assert {result.state for result in queue.results.values()} == {"complete"}
    for number in range(3):
        ours, theirs, first = again.last[number], free.last[number], free.first[number]
        assert distance(ours, theirs) < 2e-2 * distance(theirs, first)
    taken = {number: len(free.trace[number]) - len(again.trace[number]) for number in range(3)}
    assert taken == {0: 7, 1: 7, 2: 0} and graphs_of(again).known


@pytest.mark.parametrize(
    "architecture", ["llama", "gemma", "gemma3", "gemma3-bidirectional", "mistral", "bert", "roberta"]
)
def test_attention_over_texts_of_any_length_gives_the_logits_of_padded_batches(
    tmp_path: Path, architecture: str
) -> None:
    """So do sliding windows: those of gemma3 and mistral have 16 tokens here, and texts have up to 61."""
    folder = tiny_model(tmp_path / "base", architecture)
    trials = [Trial(0, 0, TrainConfig(rank=4), tmp_path)]
    pack = pack_on_gpu(folder, SINGLE, "lora", trials, 1, dtype="bfloat16")
    slot = pack.slots.put(0, trials[0])
    pack.stack.weights[0].normal_(0, 0.05)
    rng = np.random.default_rng(0)
    pack.batcher.corpus = pack.packed.corpus([rng.integers(5, 100, size=length) for length in (5, 17, 18, 33, 48, 61)])
    tiles = pack.runner.logits_of([slot.index], pack.batcher.corpus)
    pack.packed.attention = "varlen"
    flash = pack.runner.logits_of([slot.index], pack.batcher.corpus)
    pack.packed.attention = "padded"
    padded = pack.runner.logits_of([slot.index], pack.batcher.corpus)
    assert np.abs(flash - padded).max() < 0.03 * np.abs(padded).max()
    assert np.abs(tiles - padded).max() < 0.03 * np.abs(padded).max()


def test_rows_for_padded_batches_are_not_filled_up_on_a_gpu() -> None:
    corpus = Corpus([np.array([9, 10]), np.array([5, 6, 7])], Pooling(last=True, pad_token_id=0, first_position=0))
    rows = pack_texts([1, 0], [np.array([1]), np.array([0])], corpus, GPU, "padded")
    assert rows.input_ids.tolist() == [[5, 6, 7, 9, 10]] and rows.tokens.bounds == ((0, 3), (3, 5))


def test_a_plan_has_room_for_all_of_few_small_trials_and_its_pack_trains(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base", "llama")
    trials = [Trial(i, i, TrainConfig(rank=8, epochs=1), tmp_path / str(i)) for i in range(4)]
    bounds = [trial.params for trial in trials]
    base = load_base(ModelConfig(id=str(folder)), SINGLE, four_bit=False, device=GPU)
    assert base.dtype == torch.bfloat16
    adapters = METHODS["lora"](base.model, linear_names(base.model))
    train, validation = Texts(SINGLE, 37, 1), Texts(SINGLE, 12, 2)

    def build(slots: int, limits: Limits | None = None) -> Pack:
        return Pack(base.model, adapters, SINGLE, train, validation, candidates=bounds, slots=slots, limits=limits)

    found = plan(build, bounds, 100)
    assert found.slots == 100 and found.bytes < found.room and found.token > 0
    queue = Queue(trials)
    with capped(GPU):
        run_pack(build(found.slots, found.limits), queue)
    assert {result.state for result in queue.results.values()} == {"complete"}


@contextmanager
def occupied(size: int) -> Iterator[None]:
    """Inside this context, so many bytes of the card are taken, as by other programs."""
    ballast = torch.empty(size, dtype=torch.uint8, device=GPU)
    try:
        yield
    finally:
        ballast.untyped_storage().resize_(0)  # the traceback of a failure keeps the tensor itself
        torch.cuda.empty_cache()


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_plan_without_room_for_all_trials_is_kept_to(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A larger base on a card that is mostly taken: memory limits the number of slots."""
    wide = DECODER | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4, "num_attention_heads": 16}
    monkeypatch.setitem(ARCHITECTURES, "wide", ("llama", wide))
    folder = tiny_model(tmp_path / "base", "wide")
    params = TrainConfig(rank=64, epochs=2, batch_size=32, dropout=0.1)
    base = load_base(ModelConfig(id=str(folder)), SINGLE, four_bit=METHODS[method].four_bit, device=GPU)
    adapters = METHODS[method](base.model, linear_names(base.model))
    train, validation = Texts(SINGLE, 320, 1), Texts(SINGLE, 400, 2)

    def build(slots: int, limits: Limits | None = None) -> Pack:
        given: dict[str, Any] = {"candidates": [params], "slots": slots, "limits": limits}
        return Pack(base.model, adapters, SINGLE, train, validation, compiled=True, **given)

    total = torch.cuda.get_device_properties(GPU).total_memory
    taken = int(0.88 * total) - 6 * 2**30
    with occupied(taken), capped(GPU):
        before = torch.cuda.memory_reserved()
        found = plan(build, [params], 100)
        assert 4 < found.slots < 93 and 0.9 * found.room < found.bytes < found.room
        trials = [Trial(i, i, params, tmp_path / str(i)) for i in range(found.slots + 3)]
        queue = Queue(trials)
        pack = build(found.slots, found.limits)
        torch.cuda.reset_peak_memory_stats()
        run_pack(pack, queue)
        peak, used = torch.cuda.max_memory_reserved(), torch.cuda.max_memory_allocated()
        pack.release()
    assert {result.state for result in queue.results.values()} == {"complete"}
    assert not queue.notes and peak < 0.92 * total
    # compared with the plan, without what was allocated before
    kept = f"{peak - taken:,} kept, {used - taken:,} of it used, {before - taken:,} of them by the base and before it"
    assert 0.7 < (peak - taken) / (found.bytes - taken) < 1.3, kept


@pytest.mark.parametrize(
    ("method", "graphs", "compiled", "mixed"),
    [(method, True, False, False) for method in METHOD_NAMES]
    + [("lora", False, False, False), ("lora", True, True, False), ("lora", True, False, True)],
)
def test_memory_after_fifty_refills_is_that_after_five(
    tmp_path: Path, method: str, graphs: bool, compiled: bool, mixed: bool
) -> None:
    """With trials of one size, and with trials of many sizes, whose passes have new shapes for a while."""
    folder = tiny_model(tmp_path / "base", "llama")
    params = TrainConfig(rank=8, epochs=1, batch_size=32, dropout=0.1)

    def of(number: int) -> TrainConfig:
        changed = {"batch_size": (32, 8, 16)[number % 3], "rank": (8, 2)[number % 2], "epochs": 1 + number % 2}
        return params.model_copy(update=changed) if mixed else params

    trials = [Trial(i, i, of(i), tmp_path / str(i)) for i in range(52)]
    used: dict[int, int] = {}
    reserved: dict[int, int] = {}
    pack = pack_on_gpu(folder, SINGLE, method, trials, 2, dtype="bfloat16", kind=Pack, compiled=compiled)
    if not graphs:
        pack.runner.graphs = None

    class Watching(Queue):
        def finish(self, trial: Trial, result: Any) -> None:
            super().finish(trial, result)
            pack.runner.prefetched = None  # its size varies with the other slot's next texts
            torch.cuda.synchronize()
            # each graph has its own buffers, and the number of graphs is limited
            held = [graph.buffer for graph in graphs_of(pack).known.values()] if graphs else []
            used[len(self.results)] = torch.cuda.memory_allocated() - sum(rounded(x.nbytes) + 512 for x in held)
            reserved[len(self.results)] = torch.cuda.memory_reserved()

    run_pack(pack, Watching(trials))
    assert (used[49], used[50]) == (used[5], used[6])  # after a refill of either slot
    assert reserved[50] <= reserved[25 if mixed else 5]  # less if a capture has freed unused memory


def rounded(size: int) -> int:
    """The bytes that the allocator takes for a small tensor."""
    return -(-size // 512) * 512


def allocate_too_much() -> None:
    """Ask for more memory than any card has, so that the allocator raises its own error."""
    torch.empty(1 << 50, dtype=torch.uint8, device=GPU)


def test_a_real_out_of_memory_repeats_the_step_in_halves(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base", "bert")
    trials = [Trial(i, i, TrainConfig(rank=4, epochs=1, batch_size=16), tmp_path / str(i)) for i in range(8)]
    free = pack_on_gpu(folder, SINGLE, "lora", trials, 8)
    run_pack(free, Queue(trials))
    again = [Trial(i, i, trials[i].params, tmp_path / f"again-{i}") for i in range(8)]
    tight = pack_on_gpu(folder, SINGLE, "lora", again, 8)
    sizes: list[int] = []

    def two_slots_at_most(one: Pass) -> None:
        if one.training:
            sizes.append(len(one.slots))
            if len(one.slots) > 2:
                allocate_too_much()

    before_each_pass(tight, two_slots_at_most)
    queue = Queue(again)
    run_pack(tight, queue)
    assert sizes[:10] == [8, 4, 2, 2, 2, 2] + [2] * 4  # from the next step on, groups of two at once
    assert {result.state for result in queue.results.values()} == {"complete"}
    same_training(tight, free)


@dataclass
class Tries:
    """The training passes of a pack that run its code: plain ones and captures. Replayed graphs do not count.

    Attributes:
        sizes, held: the number of slots in each pass, and the bytes that were allocated when it began.
        failed: the passes that ran out of memory, by their place in these lists.
    """

    sizes: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)

    def kept(self) -> int:
        """The most bytes that a failed pass did not free."""
        return max(self.held[number + 1] - self.held[number] for number in self.failed)


def of_many_shapes(task: Task) -> Texts:
    """Texts of such lengths that the passes of eight of them in each slot have many shapes."""
    return Texts(task, 37, 1, shortest=3, longest=190)


def with_and_without_room(
    folder: Path,
    slots: int,
    params: TrainConfig,
    full: Callable[[Watched, Tries], bool],
    train: Texts | None = None,
) -> tuple[Any, Any, Tries, list[str]]:
    """Train the same trials in two packs, all at once; returns both packs, and the second one's tries and notes.

    Args:
        full: whether memory is full. It is asked in the middle of each backward pass of the second pack, when half of
            the gradients have been written.
    """
    base, tries = tiny_model(folder / "base", "llama"), Tries()

    def pack_of(run: str) -> tuple[Watched, Queue]:
        trials = [Trial(i, i, params, folder / run / str(i)) for i in range(slots)]
        return pack_on_gpu(base, SINGLE, "lora", trials, slots, dtype="bfloat16", train=train), Queue(trials)

    free, queue = pack_of("free")
    run_pack(free, queue)
    tight, queue = pack_of("tight")

    def begins(one: Pass) -> None:
        if one.training:
            tries.sizes.append(len(one.slots))
            tries.held.append(torch.cuda.memory_allocated())

    def scarce(grad: torch.Tensor) -> None:
        if full(tight, tries):
            tries.failed.append(len(tries.sizes) - 1)
            allocate_too_much()

    def hook_gradient(module: Any, inputs: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(scarce)

    before_each_pass(tight, begins)
    blocks_of(tight)[0].register_forward_hook(hook_gradient)
    run_pack(tight, queue)
    assert {result.state for result in queue.results.values()} == {"complete"}
    return free, tight, tries, queue.notes


@pytest.mark.parametrize("where", ["backward", "capture"])
def test_running_out_of_memory_in_the_middle_of_a_pass_costs_no_trial_anything(tmp_path: Path, where: str) -> None:
    def full(pack: Watched, tries: Tries) -> bool:
        return tries.sizes[-1] > 2 and torch.cuda.is_current_stream_capturing() == (where == "capture")

    params = TrainConfig(rank=4, epochs=3, batch_size=8, learning_rate=2e-3)
    free, tight, tries, notes = with_and_without_room(tmp_path, 8, params, full)
    assert [tries.sizes[number] for number in tries.failed] == [8, 4]
    (note,) = notes
    assert note.startswith("memory: a step of 8 slots ") and "; from now on 2 " in note
    assert tries.kept() < 2**20
    assert graphs_of(tight).known and not graphs_of(tight).refused
    for number in range(8):
        ours, theirs = tight.last[number], free.last[number]
        apart = sum(float((ours[key] - theirs[key]).norm()) for key in ours)
        assert apart < 1e-2 * sum(float((theirs[key] - free.first[number][key]).norm()) for key in theirs)


def test_running_out_of_memory_while_the_next_step_is_captured_costs_nothing(tmp_path: Path) -> None:
    """The GPU is still at work on this step. The next step captures its own passes then."""

    def full(pack: Watched, tries: Tries) -> bool:
        ahead = pack.runner.prefetched is not None  # a step that begins takes what was prefetched for it
        return torch.cuda.is_current_stream_capturing() and ahead and len(tries.failed) < 2

    params = TrainConfig(rank=4, epochs=3, batch_size=8, dropout=0.1, learning_rate=2e-3)
    free, tight, tries, notes = with_and_without_room(tmp_path, 4, params, full, of_many_shapes(SINGLE))
    assert len(tries.failed) == 2 and tries.kept() < 2**20
    assert notes == [] and set(tries.sizes) == {4} and not graphs_of(tight).refused
    for number in range(4):
        assert all(torch.equal(tight.last[number][key], value) for key, value in free.last[number].items())


def looks_at_its_numbers(folder: Path, trials: list[Trial]) -> None:
    """Run a base that waits for the GPU in its forward pass, once with graphs and once without."""
    said: list[list[str]] = []

    def looks(module: Any, given: Any, out: torch.Tensor) -> None:
        assert out.isfinite().all()

    packs = [pack_on_gpu(folder, SINGLE, "lora", trials, 2, dtype="bfloat16") for _ in range(2)]
    packs[1].runner.graphs = None
    for run, pack in enumerate(packs):
        blocks_of(pack)[0].register_forward_hook(looks)
        there = [replace(trial, folder=trial.folder / str(run)) for trial in trials]
        queue = Queue(there)
        run_pack(pack, queue)
        assert {result.state for result in queue.results.values()} == {"complete"}
        said.append(queue.notes)
    (note,), others = said
    assert graphs_of(packs[0]).refused and note.startswith("graphs: the base ") and not others
    assert all(
        torch.equal(packs[0].last[n][key], value) for n in packs[1].last for key, value in packs[1].last[n].items()
    )


def test_a_base_that_cannot_be_captured_runs_without_graphs(tmp_path: Path) -> None:
    """In a process of its own: after a failed capture, torch before 2.12 believes that it is still capturing."""
    folder = tiny_model(tmp_path / "base", "llama")
    params = TrainConfig(rank=4, epochs=2, batch_size=8, dropout=0.1, learning_rate=2e-3)
    trials = [Trial(i, i, params, tmp_path / str(i)) for i in range(3)]
    child = get_context("spawn").Process(target=looks_at_its_numbers, args=(folder, trials))
    child.start()
    child.join()
    assert child.exitcode == 0


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_graphs_give_the_same_results_as_plain_passes(tmp_path: Path, method: str) -> None:
    folder = tiny_model(tmp_path / "base", "llama")
    params = TrainConfig(rank=8, epochs=3, batch_size=8, dropout=0.2, learning_rate=2e-3)

    def targets(number: int) -> dict[str, Any]:
        """Every other LoRA trial adapts fewer layers, in slots that other trials had before."""
        return {"target_modules": ("q_proj", "down_proj")} if method == "lora" and number % 2 else {}

    def run(where: str, graphs: bool) -> Any:
        sizes = (8, 8, 5, 8, 2, 8)  # trials come and go, so that passes have several shapes
        trials = [
            Trial(i, i, params.model_copy(update={"batch_size": size} | targets(i)), tmp_path / where / str(i))
            for i, size in enumerate(sizes)
        ]
        pack = pack_on_gpu(folder, MULTI, method, trials, 3, dtype="bfloat16")
        if not graphs:
            pack.runner.graphs = None
        run_pack(pack, Queue(trials))
        return pack

    replayed, plain = run("a", True), run("b", False)
    assert len(graphs_of(replayed).known) > 2
    for number in range(6):
        ours, theirs = replayed.last[number], plain.last[number]
        apart = sum(float((ours[key] - theirs[key]).norm()) for key in ours)
        assert apart < 1e-2 * sum(float((theirs[key] - plain.first[number][key]).norm()) for key in theirs)


def test_a_sweep_of_mixed_batches_captures_few_passes(tmp_path: Path) -> None:
    """Shapes are few, so most passes are replayed."""
    folder = tiny_model(tmp_path / "base", "llama")
    params = TrainConfig(rank=4, epochs=6, learning_rate=1e-3)
    sizes = (8, 32, 16, 8, 4, 16, 32, 8)
    trials = [
        Trial(i, i, params.model_copy(update={"batch_size": size}), tmp_path / str(i)) for i, size in enumerate(sizes)
    ]
    pack = pack_on_gpu(folder, MULTI, "lora", trials, 4, dtype="bfloat16", kind=Pack, train=Texts(MULTI, 370, 1))
    captured: list[int] = []

    class Counting(Queue):
        def stepped(self, slots: Any) -> bool:
            captured.append(graphs_of(pack).captured)
            return super().stepped(slots)

    run_pack(pack, Counting(trials))
    assert len(captured) > 400 and captured[-1] < len(captured) / 8, (len(captured), captured[-1])
    assert not graphs_of(pack).refused


def test_a_released_pack_frees_its_memory_and_its_graphs_at_once(tmp_path: Path) -> None:
    """Without the garbage collector, which may run later: the next study's plan counts what is free now."""
    folder = tiny_model(tmp_path / "base", "llama")
    base = load_base(ModelConfig(id=str(folder)), SINGLE, four_bit=False, device=GPU)
    adapters = METHODS["lora"](base.model, linear_names(base.model))
    params = TrainConfig(rank=8, epochs=2, batch_size=8, dropout=0.1)
    left: list[int] = []
    gc.disable()
    try:
        for study in range(4):
            trials = [Trial(i, i, params, tmp_path / str(study) / str(i)) for i in range(4)]
            texts = Texts(SINGLE, 200, study), Texts(SINGLE, 12, 9)
            pack = Pack(base.model, adapters, SINGLE, *texts, candidates=[params], slots=4)
            run_pack(pack, Queue(trials))
            assert pack.runner.graphs is not None and graphs_of(pack).known
            pack.release()
            del pack
            left.append(torch.cuda.memory_allocated())
    finally:
        gc.enable()
    assert max(left[1:]) - left[0] < 2**20, left  # libraries keep some memory from the first pack on


class Busy(StepResults):
    """Notes after each preparation of the next step whether the GPU is still at work on this one.

    Attributes:
        laid_out: for each step after which the next one was laid out.
        captured: for each step after which passes of the next one were captured.
    """

    def __init__(self, pack: Pack) -> None:
        super().__init__(pack.packed.device)
        self.pack = pack
        self.laid_out: list[bool] = []
        self.captured: list[bool] = []
        self.known: set[Any] = set()  # shapes that were captured up to the step before, and the shapes of this step

    def add(self, *args: Any) -> None:
        busy, pack = not torch.cuda.current_stream().query(), self.pack
        ahead = set() if pack.runner.prefetched is None else {batch.shape for batch in pack.runner.prefetched[1]}
        if ahead:
            self.laid_out.append(busy)
        if ahead & set(graphs_of(pack).known) - self.known:
            self.captured.append(busy)
        self.known = set(graphs_of(pack).known) | ahead
        super().add(*args)


def test_the_next_step_is_laid_out_and_captured_while_the_gpu_is_at_work(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base", "llama")
    trials = [Trial(i, i, TrainConfig(rank=4, epochs=2, batch_size=8), tmp_path / str(i)) for i in range(3)]
    train = of_many_shapes(MULTI)
    pack = pack_on_gpu(folder, MULTI, "lora", trials, 3, dtype="bfloat16", kind=Pack, train=train)
    pack.results = noted = Busy(pack)

    def keep_the_gpu_busy(module: Any, inputs: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            torch.cuda._sleep(1_000_000_000)  # cycles: half a second, in each replay too

    blocks_of(pack)[0].register_forward_hook(keep_the_gpu_busy)
    run_pack(pack, Queue(trials))
    assert len(noted.laid_out) > 5 and all(noted.laid_out[1:]), noted.laid_out  # kernels are compiled in the first step
    assert noted.captured and all(noted.captured), noted.captured


def test_long_texts_in_one_slot_leave_room_for_the_others(tmp_path: Path) -> None:
    """Texts of 2,048 tokens among short ones: passes stay within their tokens, and so within their memory."""
    folder = tiny_model(tmp_path / "base", "llama")
    params = TrainConfig(rank=8, epochs=1, batch_size=4)
    trials = [Trial(i, i, params, tmp_path / str(i)) for i in range(6)]
    limits = Limits(slot_tokens=2048, train_tokens=2048, eval_tokens=2048)
    pack = pack_on_gpu(folder, SINGLE, "lora", trials, 6, dtype="bfloat16", limits=limits)
    rng = np.random.default_rng(0)
    texts = [*Texts(SINGLE, 37, 1).input_ids[:30], *(rng.integers(5, 100, size=2048) for _ in range(7))]
    pack.batcher.corpus, pack.packed.attention = pack.packed.corpus(texts), "varlen"
    batches = [
        batch
        for step in range(9)
        for batch in pack.batcher.micro_batches([step_of(pack, trial, step) for trial in trials], pack.runner.limits)
    ]
    assert max(batch.size for batch in batches) <= 2112 and any(batch.size >= 2048 for batch in batches)
    queue = Queue(trials)
    run_pack(pack, queue)
    assert {result.state for result in queue.results.values()} == {"complete"}


def test_one_long_text_among_a_hundred_short_ones_is_read_as_it_is_alone(tmp_path: Path) -> None:
    """The mean length of a text is short, and decides which attention the pack uses."""
    folder = tiny_model(tmp_path / "base", "llama")
    params = TrainConfig(rank=8, epochs=2, batch_size=8, learning_rate=2e-3)
    trials = [Trial(i, i, params, tmp_path / str(i)) for i in range(4)]
    train = Texts(SINGLE, 100, 1)
    train.input_ids[40] = np.random.default_rng(0).integers(5, 100, size=2048)
    limits = Limits(slot_tokens=4096, train_tokens=4096, eval_tokens=4096)
    pack = pack_on_gpu(folder, SINGLE, "lora", trials, 4, dtype="bfloat16", train=train, limits=limits)
    slot = pack.slots.put(0, trials[0])
    pack.stack.weights[0].normal_(0, 0.05)
    tiles = pack.runner.logits_of([slot.index], pack.batcher.corpus)
    pack.packed.attention = "padded"
    padded = pack.runner.logits_of([slot.index], pack.batcher.corpus)
    pack.packed.attention = "tiles"
    assert np.abs(tiles - padded).max() < 0.03 * np.abs(padded).max()
    pack.slots.vacate(slot)
    queue, before = Queue(trials), torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run_pack(pack, queue)
    assert {result.state for result in queue.results.values()} == {"complete"}
    # attention scores of 2,048 by 2,048 in four heads and two layers, kept for backward, would take that much alone
    assert torch.cuda.max_memory_allocated() - before < 2 * 4 * 2048**2 * 4


def step_of(pack: Any, trial: Trial, step: int) -> Slot:
    """A slot that is about to take this step."""
    schedule = Schedule(trial.params, len(pack.batcher.corpus.lengths))
    return Slot(trial.number, trial, schedule, parameters=0, step=step)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_a_whole_sweep_on_the_gpu(tmp_path: Path, method: str) -> None:
    place: Home = home(tmp_path / "home", "llama", rows=96)
    study = place.study(method=method, train={"epochs": 4}, space={"learning_rate": [1e-2, 5e-3]})
    result = place.run(study, trials=2)
    assert result.counts == {"complete": 2}
    devices = {run.data.params["device"] for run in place.runs()}
    assert devices == {"cuda:0"}
    assert result.best is not None and result.best.adapter is not None
    config = json.loads((Path(result.best.adapter) / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
