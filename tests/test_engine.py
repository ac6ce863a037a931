"""The pack: do neighbours matter, does anything leak, and does a resumed trial continue as if it had never stopped?"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import math
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from peftsweep.config import TrainConfig
from peftsweep.engine import (
    EndTrial,
    Evaluated,
    Idle,
    Leaders,
    Limits,
    PackWorker,
    Progressed,
    Result,
    SaveCheckpoints,
    Scored,
    ScoreTrial,
    StartTrials,
    Trial,
    TrialEnded,
    Verdicts,
    build_that_fits,
    checkpoint,
    cpu_workers,
    in_equal_turns,
    plan,
)
from peftsweep.engine.capacity import Measured, plan_from
from peftsweep.engine.corpus import Corpus, Pooling
from peftsweep.engine.cuda_graphs import CudaGraphs, Graph
from peftsweep.engine.oom import BackOff, RoomMade
from peftsweep.engine.packed_model import PackedModel
from peftsweep.engine.schedule import Schedule
from peftsweep.engine.slot_weights import SlotParameters
from peftsweep.engine.text_packing import pack_texts
from peftsweep.errors import MethodError, ModelError
from peftsweep.layers import FAR, ForwardContext, LayerSpec, Segments, attention, tiled
from peftsweep.layers.attention import ATTENTION, attend
from peftsweep.layers.dropout import keep_mask
from peftsweep.layers.packed_batch import Group
from peftsweep.methods import METHODS
from peftsweep.methods.lora import PackedLora
from peftsweep.models import linear_names
from peftsweep.study.artifacts import adapter_files
from peftsweep.sweep.judge import drive
from peftsweep.task import tune_thresholds
from tests.numbers import distance, same, same_training, same_values, same_weights
from tests.packs import (
    MULTI,
    SINGLE,
    Pass,
    Queue,
    Texts,
    Traced,
    Watched,
    base_of,
    before_each_pass,
    pack_of,
    run_pack,
)
from tests.tiny import tiny_model

aten = torch.ops.aten
ONE = TrainConfig(rank=4, dropout=0.3, learning_rate=5e-3, batch_size=8, epochs=2, evals_per_epoch=2)


def trial(number: int, folder: Path, **changes: object) -> Trial:
    return Trial(number, 100 + number, ONE.model_copy(update=changes), folder / f"trial-{number}")


def neighbours(folder: Path) -> list[Trial]:
    """Seven trials that differ in everything. The shortest come first, so their slots are refilled early."""
    return [
        trial(i, folder, rank=1 + i, batch_size=3 + 2 * i, epochs=1 + i // 3, learning_rate=1e-2 / i, dropout=0.1 * i)
        for i in range(1, 8)
    ]


@pytest.fixture(scope="module", params=["llama", "bert"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"), request.param)


def run(base: Path, trials: list[Trial], slots: int, method: str = "lora", **kwargs: object) -> Watched:
    pack = pack_of(base, SINGLE, method, trials, slots, **kwargs)
    run_pack(pack, Queue(trials))
    return pack


@pytest.mark.parametrize("method", ["lora", "ia3", "qlora"])
def test_neighbours_do_not_matter(base: Path, tmp_path: Path, method: str, in_float64: None) -> None:
    alone = run(base, [trial(0, tmp_path / "a")], 1, method)
    first = run(base, [trial(0, tmp_path / "b"), *neighbours(tmp_path / "b")], 4, method)
    # Three long trials hold slots 0 to 2. Two short ones use slot 3 before this trial gets it.
    long = [trial(i, tmp_path / "c", epochs=6, rank=i, dropout=0.1) for i in (1, 2, 3)]
    short = [trial(i, tmp_path / "c", epochs=1, learning_rate=0.05) for i in (4, 5)]
    last = run(base, [*long, *short, trial(0, tmp_path / "c")], 4, method)
    assert (first.where[0], last.where[0]) == (0, 3)
    for crowd in (first, last):
        same_training(crowd, alone, [0])
    other = run(base, [trial(0, tmp_path / "e", learning_rate=5.01e-3)], 1, method)
    with pytest.raises(AssertionError):  # the comparison must notice a difference
        same_training(other, alone)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_micro_batches_add_up_to_the_batch(base: Path, tmp_path: Path, dropout: float, in_float64: None) -> None:
    """Memory decides where a batch is split, so the split must not change which elements are dropped."""
    whole = run(base, [trial(0, tmp_path / "a", dropout=dropout)], 1)
    limits = Limits(slot_tokens=25, eval_tokens=40)
    parts = run(base, [trial(0, tmp_path / "b", dropout=dropout)], 1, limits=limits)
    assert len(parts.batcher.micro_batches([parts.slots.put(0, trial(1, tmp_path))], parts.runner.limits)) > 2
    same_training(parts, whole)


@pytest.mark.parametrize("method", ["lora", "ia3", "qlora"])
def test_the_base_is_byte_identical_after_a_sweep(base: Path, tmp_path: Path, method: str) -> None:
    """Compare weights, buffers and the state of 4-bit layers after training, evaluation and a save."""
    pack = pack_of(base, MULTI, method, neighbours(tmp_path), 3)
    model = pack.packed.model
    own = {place.layer.stacked[place.name].data_ptr() for place in pack.stack.param_slices}

    def digest() -> dict[str, str]:
        state = {name: t for name, t in model.state_dict().items() if "stacked" not in name and t.data_ptr() not in own}
        return {
            name: hashlib.sha256(t.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
            for name, t in state.items()
        }

    before = digest()
    assert len(before) > 20 and (method != "qlora" or any("nested_absmax" in name for name in before))
    run_pack(pack, Queue(neighbours(tmp_path)))
    assert digest() == before
    pack.release()
    assert not any("stacked" in name or "inner" in name for name, _ in model.named_parameters())


def test_a_nan_fails_its_trial_and_leaves_the_others_bit_equal(base: Path, tmp_path: Path) -> None:
    trials = [trial(i, tmp_path / "a", rank=4) for i in range(3)]
    broken = pack_of(base, SINGLE, "lora", trials, 3)
    healthy = pack_of(base, SINGLE, "lora", trials, 3)
    queue = Queue(trials)
    for pack in (broken, healthy):
        for i, one in enumerate(trials):
            pack.slots.put(i, one)
    broken.stack.weights[1].fill_(float("nan"))
    for _ in range(3):
        broken.step()
        healthy.step()
    queue.answer(broken.outbox.drain())
    assert queue.results[1].state == "failed"
    assert queue.results[1].reason == "loss is nan at step 1"
    assert torch.equal(broken.stack.weights[[0, 2]], healthy.stack.weights[[0, 2]])
    assert not broken.stack.weights[1].any() and not broken.stack.grads.any()


class Breaks(Watched):
    """Trial 1's weights become NaN after its second step."""

    def step(self) -> None:
        for slot in self.slots.occupied:
            if (slot.trial.number, slot.step) == (1, 2):
                self.stack.weights[slot.index].fill_(float("nan"))
        super().step()


def test_losses_that_are_read_a_step_late_change_nothing(base: Path, tmp_path: Path) -> None:
    """As on a GPU, where the trial that breaks at step 3 ends after step 4 has been launched."""
    found = []
    for ahead in (0, 1):
        trials = [trial(i, tmp_path / str(ahead)) for i in range(3)]
        pack, queue = pack_of(base, SINGLE, "lora", trials, 3, kind=Breaks), Queue(trials)
        pack.results.ahead = ahead
        run_pack(pack, queue)
        assert queue.results[1].reason == "loss is nan at step 3"
        found.append(({i: queue.results[i].best for i in (0, 2)}, {i: pack.trace[i] for i in (0, 2)}))
    assert found[0] == found[1]


@pytest.mark.numbers
def test_dropout_works_as_in_lora_in_forward_and_backward() -> None:
    """y = W x + α/r · B A (x · mask / (1 - p)), by autograd, for two slots of different ranks and rates."""
    current = ForwardContext([0.0] * 2, torch.device("cpu"), fused=False)
    layer = PackedLora(LayerSpec(nn.Linear(6, 5).requires_grad_(False), "layer", 3, current, 2), rank=4)
    stack = SlotParameters([layer], 2, torch.device("cpu"))
    stack.weights.normal_(generator=torch.Generator().manual_seed(0))
    for slot, params in enumerate((TrainConfig(rank=4, dropout=0.5), TrainConfig(rank=2, alpha=3.0, dropout=0.25))):
        layer.active[slot], layer.slot_ranks[slot] = True, params.rank
        layer.start(slot, params, torch.Generator())
    current.segments, current.keys = Segments((1, 0), ((0, 7), (7, 11)), {0: 3}), {0: (1, 2), 1: (9, 2)}
    x = torch.randn(11, 6, requires_grad=True)
    ours = layer(x)
    grad = torch.randn_like(ours)
    (to_x,) = torch.autograd.grad(ours, x, grad)
    a, b = (layer.stacked[name].detach().requires_grad_() for name in ("A", "B"))
    parts = []
    for slot, rows, skipped, p, scale, rank in ((1, slice(0, 7), 0, 0.25, 1.5, 2), (0, slice(7, 11), 3, 0.5, 2.0, 4)):
        whole = skipped + rows.stop - rows.start, 6
        mask = keep_mask(whole, x.device, (*current.keys[slot], 0, 3), p, x.dtype)[skipped:]
        parts.append(scale * (x[rows] * mask / (1 - p)) @ a[slot, :rank].T @ b[slot, :, :rank].T)
    theirs = layer.inner(x) + torch.cat(parts)
    same(ours, theirs)
    wanted = torch.autograd.grad(theirs, (x, a, b), grad)
    for got, want in zip((to_x, layer.stacked["A"].grad, layer.stacked["B"].grad), wanted, strict=True):
        same(got, want)


def test_every_parameter_begins_where_compiled_code_expects_it() -> None:
    """At a multiple of four columns, in layers of odd widths, too; no column belongs to two parameters."""
    context = ForwardContext([0.0], torch.device("cpu"), fused=False)
    linears = [nn.Linear(a, b).requires_grad_(False) for a, b in ((7, 3), (3, 13), (13, 1))]
    layers = [PackedLora(LayerSpec(each, f"layer{i}", i, context, 1), rank=3) for i, each in enumerate(linears)]
    stack = SlotParameters(layers, 1, torch.device("cpu"))
    row = torch.zeros(stack.weights.shape[1])
    for param in stack.param_slices:
        assert param.start % 4 == 0
        param.of(row).add_(1)
    assert row.max() == 1 and row.sum() == sum(math.prod(param.shape) for param in stack.param_slices)


class StartsAlone(PackedLora):
    """Written by somebody who does not call the inherited `start`."""

    rank_axes: ClassVar[dict[str, int]] = {"A": 0, "B": 1}

    def start(self, slot: int, params: TrainConfig, generator: torch.Generator) -> dict[str, torch.Tensor]:
        self.scales[slot] = 1.0
        return {"A": torch.ones(params.rank, self.in_features)}


def test_a_layer_knows_the_rank_of_a_slot_by_what_its_trial_uses() -> None:
    context = ForwardContext([0.0] * 2, torch.device("cpu"), fused=False)
    layer = StartsAlone(LayerSpec(nn.Linear(6, 5).requires_grad_(False), "layer", 0, context, 2), rank=4)
    stack = SlotParameters([layer], 2, torch.device("cpu"))
    stack.start(1, TrainConfig(rank=3), frozenset(["layer"]), torch.Generator())
    assert layer.slot_ranks == [0, 3] == layer.ranks.tolist() and layer.factor.tolist() == [0.0, 1.0]
    assert stack.used[1] == (slice(0, 3 * (8 + 8)),)
    StartsAlone.rank_axes = {"A": -2, "B": 1}
    with pytest.raises(MethodError, match=r"StartsAlone: rank_axes has axis -2 for 'A', whose shape is \(4, 6\)"):
        SlotParameters([layer], 2, torch.device("cpu"))


def test_a_trial_with_more_parameters_than_kernels_can_count_is_refused() -> None:
    wide = nn.Linear(2**16, 2**16, device="meta").requires_grad_(False)
    context = ForwardContext([0.0], torch.device("cpu"), fused=False)
    with pytest.raises(ModelError, match=r"a trial would train 2,147,483,648 parameters, and a pack takes up to "):
        SlotParameters([PackedLora(LayerSpec(wide, "layer", 0, context, 1), rank=2**14)], 1, torch.device("cpu"))


def test_a_mask_keeps_its_share_and_differs_by_slot_step_and_layer() -> None:
    masks = [
        keep_mask((200, 100), torch.device("cpu"), key, 0.3, torch.float32) for key in [(1, 0, 0, 5), (1, 1, 0, 5)]
    ]
    masks += [
        keep_mask((200, 100), torch.device("cpu"), key, 0.3, torch.float32) for key in [(2, 0, 0, 5), (1, 0, 0, 6)]
    ]
    assert all(abs(float(mask.mean()) - 0.7) < 0.02 for mask in masks)
    for i, mask in enumerate(masks):
        for other in masks[:i]:
            assert abs(float((mask == other).float().mean()) - (0.7**2 + 0.3**2)) < 0.03  # as often as unrelated masks


def test_a_cleared_slot_is_empty(base: Path, tmp_path: Path) -> None:
    pack = run(base, neighbours(tmp_path), 2)
    assert not pack.stack.weights.any() and not pack.stack.grads.any()
    assert not any(any(layer.active) for layer in pack.stack.layers)


@pytest.mark.parametrize(("optimizer", "dtype"), [("adamw", "float32"), ("sgd", "float32"), ("adamw", "bfloat16")])
@pytest.mark.parametrize("stop", [1, pytest.param(5, marks=pytest.mark.numbers), 6])
def test_a_stopped_trial_resumes_bit_for_bit(base: Path, tmp_path: Path, stop: int, optimizer: str, dtype: str) -> None:
    """It stops before, at and after an evaluation: an epoch has 5 steps."""
    never = run(base, [trial(0, tmp_path / "a", optimizer=optimizer)], 1, dtype=dtype)
    again = [trial(0, tmp_path / "b", optimizer=optimizer)]
    stopped = pack_of(base, SINGLE, "lora", again, 1, dtype=dtype)
    queue = Queue(again)
    queue.stop_after = stop
    run_pack(stopped, queue)
    assert stopped.slots.occupied[0].step == stop
    resumed = run(base, again, 1, dtype=dtype)
    assert distance(resumed.last[0], never.last[0]) == 0.0
    assert stopped.trace[0] + resumed.trace[0] == never.trace[0]


def test_a_checkpoint_fits_a_pack_of_another_shape(base: Path, tmp_path: Path, in_float64: None) -> None:
    never = run(base, [trial(0, tmp_path / "a")], 1)
    queue = Queue([trial(0, tmp_path / "b")])
    queue.stop_after = 4
    run_pack(pack_of(base, SINGLE, "lora", [trial(0, tmp_path / "b")], 1), queue)
    wide = run(base, [*neighbours(tmp_path / "b"), trial(0, tmp_path / "b")], 8)
    same_weights(wide.last[0], never.last[0], never.first[0], never.dtype)


def test_trials_due_to_be_judged_together_still_are_after_a_kill(base: Path, tmp_path: Path) -> None:
    class Killed(Queue):
        together: ClassVar[list[list[int]]] = []

        def report(self, reports):  # type: ignore[no-untyped-def]
            self.together.append([report.trial.number for report in reports])
            if len(self.together) == 1:
                raise KeyboardInterrupt
            return super().report(reports)

    trials = [trial(i, tmp_path) for i in range(3)]
    with pytest.raises(KeyboardInterrupt):
        run_pack(pack_of(base, SINGLE, "lora", trials, 3), Killed(trials))
    again = Killed(trials)
    run_pack(pack_of(base, SINGLE, "lora", trials, 3), again)
    assert Killed.together == [[0, 1, 2]] * 5
    assert all(result.state == "complete" for result in again.results.values())


def test_a_trial_evaluated_but_not_judged_is_evaluated_and_judged_again(base: Path, tmp_path: Path) -> None:
    class Killed(Queue):
        def report(self, reports):  # type: ignore[no-untyped-def]
            raise KeyboardInterrupt

    trials = [trial(0, tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        run_pack(pack_of(base, SINGLE, "lora", trials, 1), Killed(trials))
    queue = Queue(trials)
    queue.stop_after = ONE_EVALUATION
    run_pack(pack_of(base, SINGLE, "lora", trials, 1), queue)
    assert [evaluation.index for evaluation in queue.evaluations[0]] == [1]


def test_a_trial_that_ends_when_it_is_resumed_leaves_its_slot_to_the_next(base: Path, tmp_path: Path) -> None:
    """Its process died after the last evaluation, before the study had decided."""
    trials = [trial(i, tmp_path) for i in range(2)]
    pack = pack_of(base, SINGLE, "lora", trials, 1)
    slot = pack.slots.put(0, trials[0])
    while not slot.is_done:
        pack.decide([True] * len(pack.undecided))
        pack.step()
    pack.checkpoints.save([slot])
    pack, queue = pack_of(base, SINGLE, "lora", trials, 1), Queue(trials)
    run_pack(pack, queue)
    assert [queue.results[i].state for i in range(2)] == ["complete"] * 2


def test_checkpoints_are_saved_on_demand(base: Path, tmp_path: Path) -> None:
    trials = [trial(i, tmp_path) for i in range(2)]
    pack = pack_of(base, SINGLE, "lora", trials, 2)
    worker = PackWorker(pack)
    worker.advance()
    worker.advance([StartTrials(tuple(trials), more=False)])
    assert not any(checkpoint.newest(one.folder) for one in trials)
    worker.advance([SaveCheckpoints()])
    assert all(checkpoint.newest(one.folder) for one in trials)


def test_a_worker_sends_the_weights_of_its_best_trials_alone(base: Path, tmp_path: Path) -> None:
    """Trials 0 to 2 end in one step, then 3 to 5. Of equal values, the lower number is the better."""

    def results(folder: Path, leaders: Leaders | None) -> dict[int, Result]:
        trials = [Trial(i, i % 4, ONE, folder / f"trial-{i}") for i in range(6)]  # 4 and 5 repeat 0 and 1
        queue = Queue(trials)
        drive(PackWorker(pack_of(base, SINGLE, "lora", trials, 3), leaders=leaders), queue)
        return queue.results

    every, leading = results(tmp_path / "all", None), results(tmp_path / "two", Leaders(2, "macro_f1"))
    ranks = sorted((-one.best.scores["macro_f1"], number) for number, one in every.items() if one.best is not None)
    first_turn = [number for _, number in ranks if number < 3][:2]
    sent = {number for number, one in leading.items() if one.weights}
    assert all(one.weights for one in every.values()) and len(every) == 6
    assert sent == {*first_turn, *(number for _, number in ranks[:2])}
    assert all(one.best == every[number].best for number, one in leading.items())


def test_a_trial_that_the_study_ends_is_pruned_after_its_verdict_and_the_others_go_on(
    base: Path, tmp_path: Path
) -> None:
    trials = [trial(i, tmp_path) for i in range(2)]
    worker = PackWorker(pack_of(base, SINGLE, "lora", trials, 2), heartbeat=math.inf)
    worker.advance()
    (asked,) = worker.advance([StartTrials(tuple(trials), more=False)])
    assert isinstance(asked, Evaluated)
    early = EndTrial(1, "not needed")
    ended, *_ = worker.advance([early, Verdicts((True, True)), EndTrial(7, "not there")])
    assert isinstance(ended, TrialEnded) and ended.trial.number == 1
    step = asked.reports[1].evaluation.step
    assert (ended.result.state, ended.result.step) == ("pruned", step)
    assert ended.result.reason.startswith(f"not needed at step {step} of ") and ended.result.best is not None
    assert [slot.trial.number for slot in worker.pack.slots.occupied] == [0]
    again = worker.advance([early])
    assert not any(isinstance(event, TrialEnded) for event in again)


def test_a_resumed_trial_that_the_study_has_not_judged_yet_ends_only_after_that(base: Path, tmp_path: Path) -> None:
    trials = [trial(0, tmp_path)]
    pack = pack_of(base, SINGLE, "lora", trials, 1)
    slot = pack.slots.put(0, trials[0])
    while not pack.undecided:
        pack.step()
    pack.checkpoints.save([slot])
    worker = PackWorker(pack_of(base, SINGLE, "lora", trials, 1))
    worker.advance()
    (asked,) = worker.advance([StartTrials(tuple(trials), more=False), EndTrial(0, "not needed")])
    assert isinstance(asked, Evaluated)
    ended, *_ = worker.advance([Verdicts((True,))])
    assert isinstance(ended, TrialEnded) and ended.result.state == "pruned"


def test_an_unfinished_checkpoint_is_ignored(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-000009-01.77").mkdir()
    assert checkpoint.newest(tmp_path) is None


@pytest.mark.parametrize("name", ["state.json", "state.safetensors", "best.safetensors", "logits.safetensors"])
def test_a_truncated_checkpoint_is_ignored_and_the_trial_starts_over(base: Path, tmp_path: Path, name: str) -> None:
    never = run(base, [trial(0, tmp_path / "a")], 1)
    queue = Queue([trial(0, tmp_path / "b")])
    queue.stop_after = 7
    run_pack(pack_of(base, SINGLE, "lora", [trial(0, tmp_path / "b")], 1), queue)
    (folder,) = (tmp_path / "b" / "trial-0").glob("checkpoint-*")
    assert checkpoint.newest(folder.parent) == folder
    if name == "state.json":
        whole = json.loads((folder / name).read_text())
        for change in ({"step": "x"}, {"step": None}, {"evaluations": 5}, {"evaluations": [{}]}, {"loss_sum": []}):
            (folder / name).write_text(json.dumps({**whole, **change}))
            assert checkpoint.newest(folder.parent) is None, change
    (folder / name).write_bytes((folder / name).read_bytes()[:-7])
    assert checkpoint.newest(folder.parent) is None
    again = run(base, [trial(0, tmp_path / "b")], 1)
    assert distance(again.last[0], never.last[0]) == 0.0 and len(again.trace[0]) == len(never.trace[0])


class LimitedWork:
    """Work on numbered slots. It fails for more than `most` slots at once, and always for the slot `never`.

    Args:
        room: how many times memory can be freed.
    """

    def __init__(self, most: int, never: int | None = None, room: int = 0) -> None:
        self.most, self.never, self.room = most, never, room
        self.tried: list[list[int]] = []
        self.unfit: list[int] = []

    def __call__(self, slots: Any) -> dict[int, int]:
        self.tried.append(list(slots))
        if len(slots) > self.most or self.never in slots:
            raise torch.OutOfMemoryError("no room\nin detail")
        return {slot: 10 * slot for slot in slots}

    def make_room(self, slots: Any, again: bool) -> RoomMade:
        self.room -= 1
        return "freed" if self.room >= 0 else "none"

    def run(self, back_off: BackOff, slots: Sequence[int] = (1, 2, 3, 4)) -> dict[int, int]:
        found, unfit = back_off.run(self, slots, self.make_room)  # type: ignore[arg-type]
        assert {reason for _, reason in unfit} <= {"no room"}
        self.unfit += [slot for slot, _ in unfit]  # type: ignore[misc]
        return found


def test_slots_that_did_not_fit_together_run_in_halves_from_then_on() -> None:
    notes: list[str] = []
    back_off, work = BackOff(4, "step", notes.append), LimitedWork(most=2)
    assert work.run(back_off) == {1: 10, 2: 20, 3: 30, 4: 40} and back_off.slots == 2
    assert work.tried == [[1, 2, 3, 4], [1, 2], [3, 4]]
    work.run(back_off)
    assert work.tried[3:] == [[1, 2], [3, 4]]
    assert notes == ["memory: a step of 4 slots did not fit; from now on 2 run at once"]


def test_a_slot_that_never_fits_does_not_reduce_how_many_others_run_at_once() -> None:
    notes: list[str] = []
    back_off, work = BackOff(4, "step", notes.append), LimitedWork(most=4, never=2)
    assert work.run(back_off) == {1: 10, 3: 30, 4: 40} and back_off.slots == 4 and work.unfit == [2]
    assert not notes


def test_all_slots_are_tried_again_together_after_memory_was_freed() -> None:
    back_off, work = BackOff(4), LimitedWork(most=4, never=2, room=1)
    work.run(back_off)
    assert work.tried[:3] == [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2]]


def test_the_last_slot_fitting_after_graphs_were_dropped_does_not_raise_the_number_of_slots() -> None:
    class Refilling(LimitedWork):  # earlier passes left graphs in memory
        def __call__(self, slots: Any) -> dict[int, int]:
            if list(slots) == [5] and self.tried[-1] != [5]:
                self.tried.append([5])
                raise torch.OutOfMemoryError("no room")
            return super().__call__(slots)

        def make_room(self, slots: Any, again: bool) -> RoomMade:
            return "freed" if len(slots) == 1 else "none"

    back_off, work = BackOff(5), Refilling(most=2)
    for _ in range(2):
        assert work.run(back_off, (1, 2, 3, 4, 5)) == {slot: 10 * slot for slot in range(1, 6)} and back_off.slots == 2
    assert work.tried == [[1, 2, 3, 4, 5], *2 * [[1, 2], [3, 4], [5], [5]]]


def test_slots_that_failed_without_the_one_that_never_fits_still_reduce_the_number() -> None:
    back_off, work = BackOff(4), LimitedWork(most=1, never=4)
    assert work.run(back_off) == {1: 10, 2: 20, 3: 30} and back_off.slots == 1 and work.unfit == [4]


def test_memory_that_is_freed_and_filled_each_time_does_not_keep_a_step_from_ending(
    base: Path, tmp_path: Path, in_float64: None
) -> None:
    """Every pass leaves a graph. It can be dropped, but that never makes enough room for more than two slots."""
    free = run(base, [trial(i, tmp_path / "a") for i in range(4)], 4)
    trials = [trial(i, tmp_path / "b") for i in range(4)]
    pack = pack_of(base, SINGLE, "lora", trials, 4)
    graphs = pack.runner.graphs = CudaGraphs()
    graphs.warm = graphs.refused = True  # so that passes run without graphs
    dropped: list[int] = []

    def two_at_most(one: Pass) -> None:
        dropped.append(len(graphs.known) == 0)
        graphs.known["a pass"] = cast("Graph", None)
        if one.training and len(one.slots) > 2:
            raise torch.OutOfMemoryError("out of memory")

    before_each_pass(pack, two_at_most)
    run_pack(pack, Queue(trials))
    assert dropped[:2] == [True, True] and pack.runner.training.slots == 2
    same_training(pack, free)


class FullMemory(TorchDispatchMode):
    """Memory that is full at times: at the norms of an update, or when the next step is packed or captured."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.when, self.updates, self.raised, self.after_update = when, 0, 0, False

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if operation is aten.linalg_vector_norm.default:
            self.updates, self.after_update = self.updates + 1, True
            self.check(self.when == "update" and self.updates % 3 == 2)
        elif operation is aten.set_.source_Storage_storage_offset:  # allocates a batch's arrays
            first, self.after_update = self.after_update, False
            self.check(self.when == "packed" and first and self.updates % 2 == 1)
        elif operation is aten.clone.default and args[0].dtype == torch.int32:  # copies a graph's inputs
            self.check(self.when == "captured")
        return operation(*args, **(kwargs or {}))

    def check(self, full: bool) -> None:
        if full:
            self.raised += 1
            raise torch.OutOfMemoryError("no room")


@pytest.mark.parametrize("when", ["update", "packed", "captured"])
def test_running_out_of_memory_between_passes_harms_no_trial(
    base: Path, tmp_path: Path, when: str, in_float64: None
) -> None:
    """Memory is full in an update before it writes anything, or while the next step is prepared, which can wait."""

    def pack_in(run: str) -> tuple[Any, Queue]:
        trials = [trial(i, tmp_path / run) for i in range(3)]
        pack = pack_of(base, SINGLE, "lora", trials, 3)
        pack.runner.cpu_workers.close()
        pack.runner.cpu_workers = cpu_workers.CpuWorkers(1)  # torch's dispatch mode applies to this thread only
        return pack, Queue(trials)

    (free, all_trials), (pack, queue), memory = pack_in("a"), pack_in("b"), FullMemory(when)
    run_pack(free, all_trials)
    pack.runner.prefetches = True
    if when == "captured":
        pack.runner.graphs = CudaGraphs()  # only captures coming passes
        pack.runner.graphs.warm = pack.runner.graphs.refused = True
        pack.runner.graphs.largest = 1 << 30
    with memory:
        run_pack(pack, queue)
    assert memory.raised > 2 and pack.runner.training.slots == 3
    assert {result.state for result in queue.results.values()} == {"complete"}
    same_training(pack, free)


def exported(pack: Watched, queue: Queue, one: Trial, folder: Path) -> None:
    weights = {key: torch.from_numpy(value) for key, value in queue.results[one.number].weights.items()}  # type: ignore[union-attr]
    pack.slots.method.export(folder, weights=weights, params=one.params, source="base", revision=None)


def on_test_split(pack: Watched, one: Trial, adapter: Path) -> dict[str, float]:
    """Score the pack's test split."""
    found, *_ = [
        event
        for event in PackWorker(pack).advance([ScoreTrial(one, adapter_files(adapter))])
        if isinstance(event, Scored)
    ]
    assert found.trial == one.number
    assert found.scores is not None, found.reason
    return found.scores


@pytest.mark.numbers
def test_a_test_split_that_does_not_fit_is_scored_in_shorter_passes(base: Path, tmp_path: Path) -> None:
    sizes: list[int] = []

    def a_hundred_tokens_at_most(one: Pass) -> None:
        sizes.append(sum(one.tokens.values()))
        if sizes[-1] > 100:
            raise torch.OutOfMemoryError("no room")

    (one,) = trials = [trial(0, tmp_path)]
    split = Texts(SINGLE, 60, 3)
    pack, queue = pack_of(base, SINGLE, "lora", trials, 1, test=split), Queue(trials)
    run_pack(pack, queue)
    adapter = tmp_path / "adapter"
    exported(pack, queue, one, adapter)
    before_each_pass(pack, a_hundred_tokens_at_most)
    narrow = on_test_split(pack, one, adapter)
    assert max(sizes) > 100 >= sizes[-1]
    wide = on_test_split(pack_of(base, SINGLE, "lora", trials, 1, test=split), one, adapter)
    same_values([narrow.pop("loss")], [wide.pop("loss")])
    assert narrow == wide


def test_the_test_split_is_scored_with_thresholds_from_the_validation_rows(base: Path, tmp_path: Path) -> None:
    (one,) = trials = [trial(0, tmp_path)]
    split = Texts(MULTI, 60, 3)
    split.labels = (np.random.default_rng(0).random((60, 3)) < 0.9).astype(
        np.float32
    )  # other label shares than in validation
    pack, queue = pack_of(base, MULTI, "lora", trials, 1, test=split), Queue(trials)
    run_pack(pack, queue)
    exported(pack, queue, one, tmp_path / "adapter")
    scores, seen = on_test_split(pack, one, tmp_path / "adapter"), queue.results[0].logits
    slot = pack.slots.put(0, one)
    parts = pack.stack.split(slot.index, pack.stack.weights[slot.index], one.params)
    pack.slots.method.read(tmp_path / "adapter", parts, one.params)
    (logits,) = pack.runner.logits_of([slot.index], pack.packed.corpus(split.input_ids))
    thresholds = tune_thresholds(seen, np.asarray(pack.evaluator.validation.labels))  # type: ignore[arg-type]
    assert scores["macro_f1_tuned"] == pytest.approx(
        MULTI.macro_f1(split.labels, MULTI.predictions(logits, thresholds))
    )
    assert (
        abs(scores["macro_f1_tuned"] - MULTI.scores(logits, split.labels)["macro_f1_tuned"]) > 0.01
    )  # not the thresholds of the test split


def test_all_cpu_workers_together_respect_the_limit() -> None:
    assert cpu_workers.MAX_WORKERS * Limits().slot_tokens <= Limits().train_tokens


def test_a_released_pack_frees_its_memory_at_once(base: Path, tmp_path: Path) -> None:
    trials = [trial(i, tmp_path, epochs=1) for i in range(2)]
    pack = pack_of(base, SINGLE, "lora", trials, 2)
    pack.runner.graphs = CudaGraphs()
    gc.collect()
    gc.disable()
    try:
        run_pack(pack, Queue(trials))
        weights, whole = weakref.ref(pack.stack.weights), weakref.ref(pack)
        pack.release()
        del pack
        assert whole() is None and weights() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("most", [32, 0])
def test_a_batch_that_does_not_fit_alone_is_split_and_its_neighbours_stay_the_same(
    base: Path, tmp_path: Path, most: int, in_float64: None
) -> None:
    """A pass has room for `most` tokens of slot 1, and for any number of the other slots' tokens."""
    free = run(base, [trial(i, tmp_path / "a") for i in range(3)], 3)
    trials = [trial(i, tmp_path / "b") for i in range(3)]
    pack, queue = pack_of(base, SINGLE, "lora", trials, 3), Queue(trials)

    def narrow(one: Pass) -> None:
        if one.training and one.tokens.get(1, 0) > most:
            raise torch.OutOfMemoryError("out of memory")

    before_each_pass(pack, narrow)
    run_pack(pack, queue)
    ended = ["complete", "complete" if most else "pruned", "complete"]
    assert [queue.results[i].state for i in range(3)] == ended
    same_training(pack, free, [0, 2])
    assert pack.runner.training.slots == 3  # the other slots run together again
    assert most or queue.results[1].reason.endswith("even alone: out of memory")


def test_passes_of_an_evaluation_respect_their_limit(base: Path, tmp_path: Path, in_float64: None) -> None:
    passes: list[Pass] = []
    trials = [trial(i, tmp_path / "b") for i in range(4)]
    pack = pack_of(base, SINGLE, "lora", trials, 4, limits=Limits(eval_tokens=24))
    before_each_pass(pack, passes.append)
    run_pack(pack, Queue(trials))
    free = run(base, [trial(i, tmp_path / "a") for i in range(4)], 4)
    assert max(sum(one.tokens.values()) for one in passes if not one.training) <= 24
    same_training(pack, free)


def test_passes_are_counted_while_an_evaluation_goes_on(base: Path, tmp_path: Path) -> None:
    pack = pack_of(base, SINGLE, "lora", [trial(0, tmp_path)], 1, limits=Limits(eval_tokens=24))
    counts: list[int] = []
    before_each_pass(pack, lambda one: counts.append(pack.runner.passes))
    pack.evaluate([pack.slots.put(0, trial(0, tmp_path))])
    assert counts == list(range(1, len(counts) + 1)) and len(counts) > 3


def test_passes_of_a_step_have_similar_sizes(base: Path, tmp_path: Path) -> None:
    trials = [trial(i, tmp_path) for i in range(6)]
    pack = pack_of(base, SINGLE, "lora", trials, 6)
    slots = [pack.slots.put(i, one) for i, one in enumerate(trials)]
    (whole,) = pack.batcher.micro_batches(slots, pack.runner.limits)
    whole_tokens = sum(chunk.tokens for slot in slots for chunk in pack.batcher.chunks(slot, pack.runner.limits))
    pack.runner.limits = Limits(train_tokens=whole_tokens - 10)
    sizes = [batch.size for batch in pack.batcher.micro_batches(slots, pack.runner.limits)]
    assert len(sizes) == 2 and sum(sizes) == whole.size and min(sizes) > whole.size / 3


def test_an_evaluation_out_of_memory_runs_in_halves(base: Path, tmp_path: Path, in_float64: None) -> None:
    free = run(base, [trial(i, tmp_path / "a") for i in range(4)], 4)
    trials = [trial(i, tmp_path / "b") for i in range(4)]
    pack, queue = pack_of(base, SINGLE, "lora", trials, 4), Queue(trials)
    groups: list[int] = []

    def without_slot_3(one: Pass) -> None:
        if not one.training and 3 in one.slots:
            groups.append(pack.runner.evaluation.slots)
            raise torch.OutOfMemoryError("out of memory\nwith details")

    before_each_pass(pack, without_slot_3)
    run_pack(pack, queue)
    assert sorted(set(groups)) == [1, 2, 4]
    assert [queue.results[i].state for i in range(4)] == ["complete"] * 3 + ["pruned"]
    assert queue.results[3].reason == "out of memory, even alone: out of memory"
    same_training(pack, free, range(3))


def test_a_step_in_which_no_trial_fits_updates_nothing(base: Path, tmp_path: Path) -> None:
    def full(one: Pass) -> None:
        raise torch.OutOfMemoryError("no room")

    trials = [trial(0, tmp_path)]
    pack, queue = pack_of(base, SINGLE, "lora", trials, 1, kind=Traced), Queue(trials)
    before_each_pass(pack, full)
    run_pack(pack, queue)
    assert pack.count == 0
    assert queue.results[0].state == "pruned" and "out of memory" in queue.results[0].reason


@pytest.mark.parametrize("driver", [False, True], ids=["allocator", "driver"])
def test_a_step_out_of_memory_half_way_runs_in_halves_and_keeps_nothing_of_the_first_try(
    base: Path, tmp_path: Path, driver: bool, in_float64: None
) -> None:
    failed: list[Pass] = []

    def fail_once(one: Pass) -> None:
        if one.training and len(one.slots) < 4 and one.slots[-1] == 3 and not failed:
            failed.append(one)  # by now the first micro-batch has left its gradients
            raise (
                RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED") if driver else torch.OutOfMemoryError("no room")
            )

    limits = Limits(train_tokens=200)
    free = run(base, [trial(i, tmp_path / "a") for i in range(4)], 4, limits=limits)
    trials = [trial(i, tmp_path / "b") for i in range(4)]
    pack = pack_of(base, SINGLE, "lora", trials, 4, limits=limits)
    before_each_pass(pack, fail_once)
    run_pack(pack, Queue(trials))
    assert failed
    same_training(pack, free)


def test_prefetched_rows_belong_to_the_step_or_are_dropped(base: Path, tmp_path: Path) -> None:
    plain = run(base, neighbours(tmp_path / "a"), 3)

    class Ahead(Watched):
        taken = dropped = 0

        def step(self) -> None:
            ahead = self.runner.prefetched
            read: list[torch.Tensor] = []
            with before_each_pass(self, lambda one: read.append(one.input_ids)):
                super().step()
            if ahead is not None:
                own = {batch.rows.input_ids.data_ptr() for batch in ahead[1]}
                self.taken += read[0].data_ptr() in own
                self.dropped += read[0].data_ptr() not in own

    trials = neighbours(tmp_path / "b")
    pack = pack_of(base, SINGLE, "lora", trials, 3, kind=Ahead)
    pack.runner.prefetches = True
    run_pack(pack, Queue(trials))
    assert pack.taken > 10 and pack.dropped > 0  # after a slot is refilled, the prefetched step no longer applies
    assert all(distance(pack.last[n], plain.last[n]) == 0.0 for n in plain.last)


@pytest.mark.parametrize(
    ("room", "batch", "wanted", "slots", "tokens"),
    [
        (10_000_000, 400.0, 40, 40, 65_536),  # as many slots as wanted
        (200_000, 400.0, 40, 3, 1_425),  # as many as fit, with some memory left for longer texts
        (1_000, 400.0, 40, 1, 1),  # always at least one
    ],
)
def test_a_plan_follows_from_what_was_measured(room: int, batch: float, wanted: int, slots: int, tokens: int) -> None:
    measured = Measured(fixed=50_000, slot=10_000, token=80, evaluation=1, room=room)
    found = plan_from(measured, batch=batch, wanted=wanted)
    assert (found.slots, found.tokens) == (slots, tokens)
    assert found.bytes <= room or found.slots == 1
    assert found.slots == 1 or found.tokens > found.slots * batch
    assert (
        found.for_slots(1000).slots < 1000 and found.for_slots(1000).tokens >= batch
    ) or found.slots == 1  # one batch at least
    fewer = found.for_slots(max(1, slots - 2))
    assert fewer.tokens >= found.tokens and fewer.limits.train_tokens == fewer.tokens


@pytest.mark.parametrize(
    ("trials", "slots", "equal"), [(160, 77, 54), (80, 77, 40), (77, 77, 77), (154, 77, 77), (5, 77, 5), (7, 1, 1)]
)
def test_trials_that_do_not_fit_at_once_take_turns_of_equal_size(trials: int, slots: int, equal: int) -> None:
    found = in_equal_turns(trials, slots)
    assert found == equal and math.ceil(trials / found) == math.ceil(trials / slots)


class Card:
    """A GPU with room for `room` tokens in a training pass. Its counters say what the last passes would use."""

    def __init__(self, room: int) -> None:
        self.room, self.bytes_per_token, self.allocated, self.evaluated = room, 100, 0, 0
        self.packs: list[Watched] = []

    def run(self, one: Pass) -> None:
        tokens = sum(one.tokens.values())
        if not one.training:
            self.evaluated = tokens
        elif len(one.input_ids) > self.room:
            raise torch.OutOfMemoryError("no room")
        else:
            self.allocated = 10_000_000 + self.bytes_per_token * tokens


MakeCard = Callable[..., tuple[Callable[[int], Watched], Card]]


@pytest.fixture
def cards(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeCard:
    """Make a card with this many free bytes, and a function that builds packs on it."""

    def make(
        free: int, room: int = 1000, compiled: bool = False, others: int = 0
    ) -> tuple[Callable[[int], Watched], Card]:
        card = Card(room)

        def build(slots: int) -> Watched:
            pack = pack_of(base, SINGLE, "lora", [trial(0, tmp_path)], slots, compiled=compiled)
            before_each_pass(pack, card.run)
            card.packs.append(pack)
            return pack

        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: card.allocated)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: card.allocated - 2_000_000)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free + others))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
        return build, card

    return make


def test_a_plan_is_measured_by_passes_that_fit(cards: MakeCard) -> None:
    build, card = cards(100_000_000)
    found = plan(build, [ONE], 5)
    (pack,) = card.packs
    slot = 4 * pack.stack.weights[0].numel() * 4  # weights, gradients and two moments, fp32
    assert (found.slots, found.token, found.slot, found.room) == (5, 100, slot, 88_000_000)
    assert found.fixed == 10_000_000 - 2 * slot
    assert found.evaluation == 2_000_000 // card.evaluated
    assert found.evaluated == int(0.04 * (found.room - found.fixed) / found.evaluation)
    assert not pack.slots.occupied and not pack.stack.weights.any()


def test_a_plan_reserves_its_share_of_the_whole_card_s_memory(cards: MakeCard) -> None:
    build, _ = cards(50_000_000, others=50_000_000)  # used by another program
    assert plan(build, [ONE], 1).room == 88_000_000 - 50_000_000


def test_a_card_without_room_for_a_pass_is_refused(cards: MakeCard) -> None:
    with pytest.raises(ModelError, match="no room on the GPU to train with"):
        plan(cards(100_000_000, room=10)[0], [ONE], 5)


@pytest.mark.parametrize(("free", "token"), [(100_000_000, 100), (12_500_000, 10)])
def test_a_plan_short_of_memory_is_measured_again_with_compiled_blocks(cards: MakeCard, free: int, token: int) -> None:
    build, card = cards(free, compiled=True)

    def watch(frame: FrameType, event: str, arg: object) -> None:
        if event == "call" and frame.f_code.co_qualname == "PackedModel.compile":
            card.bytes_per_token = 10  # compiled blocks keep less

    sys.setprofile(watch)
    try:
        found = plan(build, [ONE], 20)
    finally:
        sys.setprofile(None)
    assert len(card.packs) == 1 and found.token == token
    assert (found.slots == 20) == (token == 100)


def test_a_pack_that_does_not_fit_is_built_with_fewer_slots() -> None:
    tried: list[int] = []

    def build(slots: int) -> str:
        tried.append(slots)
        if slots > 2:
            raise torch.OutOfMemoryError("no room")
        return f"a pack of {slots}"

    assert build_that_fits(build, 11) == "a pack of 2" and tried == [11, 5, 2]  # type: ignore[arg-type, comparison-overlap]


def test_a_pruned_trial_leaves_its_slot_to_the_next(base: Path, tmp_path: Path) -> None:
    class Pruning(Queue):
        def report(self, reports):  # type: ignore[no-untyped-def]
            super().report(reports)
            return [report.trial.number != 1 for report in reports]

    trials = [trial(i, tmp_path) for i in range(3)]
    pack, queue = pack_of(base, SINGLE, "lora", trials, 2), Pruning(trials)
    run_pack(pack, queue)
    assert queue.results[1].state == "pruned" and queue.results[1].step == ONE_EVALUATION
    assert pack.where == {0: 0, 1: 1, 2: 1}
    assert queue.results[2].state == "complete"


ONE_EVALUATION = Schedule(ONE, 37).evaluation_step(1)


def test_pooling_chooses_the_same_token_as_transformers() -> None:
    text = np.array([7, 9, 0, 0])
    assert Pooling(last=False, pad_token_id=0, first_position=0).token(text) == 0
    assert Pooling(last=True, pad_token_id=0, first_position=0).token(text) == 1
    assert Pooling(last=True, pad_token_id=0, first_position=0).token(np.array([0])) == 0


def corpus(*texts: list[int]) -> Corpus:
    return Corpus([np.array(text) for text in texts], Pooling(last=True, pad_token_id=0, first_position=2))


def test_texts_are_packed_back_to_back() -> None:
    split = corpus([9, 10], [5, 6, 7], [8])
    rows = pack_texts([3, 1], [np.array([1, 2]), np.array([0])], split, torch.device("cpu"), "padded")
    assert rows.input_ids[0].tolist() == [
        5,
        6,
        7,
        8,
        *[0] * 12,
        9,
        10,
        *[0] * 14,
    ]  # a text of filler completes a slot's rows
    assert rows.position_ids[0].tolist() == [2, 3, 4, 2, *range(2, 14), 2, 3, *range(2, 16)]
    assert rows.pooled.tolist() == [2, 3, 17] and rows.spread.tolist() == [0, 1, 2, 2]
    assert rows.slots == (3, 1) and rows.tokens.bounds == ((0, 16), (16, 32))
    assert rows.reads.bounds == ((0, 2), (2, 3)) and rows.batch.bounds == ((0, 2), (2, 4))
    assert rows.texts.slots.tolist() == [3, 1] and rows.texts.real.tolist() == [[1, 1], [1, 0]]
    (group,) = rows.groups
    assert group.spread[:, :3].tolist() == [[0, 1, 2], [3, 3, 3], [4, 5, 6], [16, 17, 17], [18, 19, 20]]
    assert group.real.sum(dim=1).tolist() == [3, 1, 12, 2, 14]
    assert group.pads.tolist() == (~group.real).flatten().nonzero().flatten().tolist()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_filler_tokens_change_nothing(base: Path, tmp_path: Path, method: str, dtype: str) -> None:
    """Gradients, losses and logits have the same bits whatever the filler is, even if the batch is split."""
    trials = [trial(i, tmp_path, batch_size=5 + i) for i in range(3)]
    pack = pack_of(base, SINGLE, method, trials, 3, dtype=dtype)
    slots = [pack.slots.put(i, one) for i, one in enumerate(trials)]
    pack.stack.weights.add_(0.05)  # so that no factor of a gradient is zero
    pack.runner.limits = Limits(slot_tokens=40)
    found = []
    for token in (pack.packed.pooling.pad_token_id, 3):  # tokens that no text has
        for split in (pack.batcher.corpus, pack.evaluator.validation_corpus):
            assert int(split.lengths.sum()) % 16  # packing all texts needs a filler
            split.tokens[split.filler :] = token
        batches = pack.batcher.micro_batches(slots, pack.runner.limits)
        assert len(batches) > 1 and all((batch.rows.input_ids == token).any() for batch in batches)
        pack.stack.grads.zero_()
        losses = torch.stack(list(pack.runner.accumulate_gradients(slots).values()))
        logits = torch.from_numpy(pack.runner.logits_of([0, 1, 2], pack.evaluator.validation_corpus))
        found.append((pack.stack.grads.clone(), losses, logits))
    assert all(one.any() and one.isfinite().all() for one in found[0])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_full_rows_get_no_filler() -> None:
    rows = pack_texts([0], [np.array([0, 1])], corpus([1] * 9, [2] * 7), torch.device("cpu"), "padded")
    assert rows.input_ids.shape == (1, 16) and rows.tokens.bounds == ((0, 16),)
    assert [group.real.shape for group in rows.groups] == [(2, 16)]


def test_rows_for_texts_of_any_length_are_filled_with_texts_of_no_slot() -> None:
    rows = pack_texts([0], [np.array([0, 1])], corpus([9, 10], [5, 6, 7]), torch.device("cpu"), "varlen")
    assert rows.ends is not None and rows.ends.tolist() == [0, 2, 5, 69, 133, 197, 256] and rows.groups == ()
    assert rows.input_ids.shape == (1, 256) and not rows.input_ids[0, 5:].any()
    assert rows.tokens.bounds == ((0, 5),) and rows.longest == 64
    assert rows.pooled.tolist() == [1, 4] + [255] * 62
    long = corpus(*[[1] * 65] * 20)
    wide = pack_texts([0], [np.arange(20)], long, torch.device("cpu"), "varlen")
    assert wide.ends is not None and wide.ends.dtype == torch.int32 and wide.ends[-1] == wide.input_ids.shape[1]
    assert int(wide.ends.diff().max()) <= wide.longest == 128 and wide.input_ids.shape[1] % 64 == 0


def test_rows_read_from_another_buffer_are_the_same() -> None:
    split = corpus([9, 10], [5, 6, 7], [8], [1, 2])
    device = torch.device("cpu")
    more = {"weights": np.array([0.5, 0.25, 1.0, 0.0], np.float32)}
    parts = [np.array([1, 2]), np.array([0])]
    rows = pack_texts([3, 1], parts, split, device, "tiles", tiles_for=4, skipped={1: (2, 9)}, more=more)
    assert rows.spans is not None and rows.spans.begins[:6].tolist() == [0, 0, 0, 3, 4, 4]
    assert rows.spans.stops[:6].tolist() == [3, 3, 3, 4, 6, 6]
    assert rows.tokens.edges is not None and rows.tokens.edges.tolist() == [[0, 0, 0], [4, 6, 9], [0, 0, 0], [0, 4, 0]]
    assert rows.reads.edges is not None and rows.reads.edges.tolist() == [[0, 0, 0], [2, 3, 2], [0, 0, 0], [0, 2, 0]]
    assert rows.reads.tiles is not None and rows.reads.tiles[:2].tolist() == [[3, 0], [1, 2]]
    assert len(rows.reads.tiles) == len(rows.pooled) // 64 + 4 == 64 // 64 + 4
    assert rows.batch.edges is not None and rows.batch.edges.tolist() == [[0, 0, 0], [2, 4, 2], [0, 0, 0], [0, 2, 0]]
    assert rows.tokens.tiles is not None and rows.tokens.tiles[:2].tolist() == [[3, 0], [1, 4]]
    assert set(rows.tokens.tiles[2:, 1].tolist()) == {FAR} and len(rows.tokens.tiles) == 256 // 64 + 4
    other = pack_texts([3, 1], [np.array([1, 3]), np.array([2])], split, device, "tiles", tiles_for=4, more=more)
    assert rows.staging.layout == other.staging.layout
    read = rows.over(other.buffer)
    assert torch.equal(read.input_ids, other.input_ids) and torch.equal(read.pooled, other.pooled)
    assert torch.equal(read.spread, other.spread)
    assert torch.equal(read.more["weights"], torch.tensor(more["weights"])) and read.spans is not None
    read.buffer.zero_()
    assert not read.input_ids.any() and rows.input_ids.any()


def test_tiles_cover_each_slot_and_nothing_else() -> None:
    segments = Segments((2, 0), ((0, 130), (130, 131)), skipped={2: 7})
    edges, tiles = tiled(segments, 3, 131)
    assert edges.tolist() == [[130, 131, 0], [0, 0, 0], [0, 130, 7]]
    assert tiles.tolist() == [[2, 0], [2, 64], [2, 128], [0, 130], [0, FAR]]


def test_attention_groups_texts_of_similar_length() -> None:
    split = corpus(*[list(range(1, n + 1)) for n in range(1, 65)])
    rows = pack_texts([0], [np.arange(64)], split, torch.device("cpu"), "padded")
    assert [group.real.shape for group in rows.groups] == [(16, 16), (16, 32), (16, 48), (16, 64)]
    flat = torch.cat([group.spread.flatten() for group in rows.groups])
    assert rows.gather is not None and torch.equal(flat[rows.gather], torch.arange(sum(range(65))))


def evaluated_after(schedule: Schedule) -> list[int]:
    return [step for step in range(schedule.steps + 1) if schedule.is_evaluated_after(step)]


def test_evaluations_are_evenly_spread() -> None:
    for rows, epochs, often in itertools.product((7, 100, 999), (1, 3, 10), (1, 2, 7, 50)):
        schedule = Schedule(TrainConfig(epochs=epochs, batch_size=16, evals_per_epoch=often), rows)
        count = min(epochs * often, schedule.steps)
        assert evaluated_after(schedule) == [round(schedule.steps * i / count) for i in range(1, count + 1)]


def test_a_trial_of_any_length_starts_at_once() -> None:
    schedule = Schedule(TrainConfig(epochs=2**53, evals_per_epoch=2**20), rows=1000)
    assert schedule.evaluations == schedule.steps and schedule.is_evaluated_after(1)


def test_a_schedule_evaluates_evenly_and_at_the_end() -> None:
    schedule = Schedule(TrainConfig(epochs=3, batch_size=16, evals_per_epoch=2), rows=100)
    assert schedule.steps == 21 and schedule.evaluations == 6 and evaluated_after(schedule) == [4, 7, 10, 14, 18, 21]
    assert evaluated_after(Schedule(TrainConfig(epochs=1, batch_size=64, evals_per_epoch=5), rows=100)) == [1, 2]
    seen = np.concatenate([schedule.batch(step, seed=3) for step in range(7)])
    assert sorted(seen) == list(range(100))
    assert not np.array_equal(schedule.batch(0, 3), schedule.batch(7, 3))
    assert list(schedule.orders) == [(3, 1)]  # only the current epoch's order is kept


@pytest.mark.numbers
@pytest.mark.parametrize("architecture", ["mistral", "gemma3", "gemma3-bidirectional"])
def test_texts_longer_than_the_window_use_the_model_s_own_window(tmp_path: Path, architecture: str) -> None:
    """Windows have 16 tokens. Building the packed model compares its logits with the plain model's."""
    folder = tiny_model(tmp_path / "base", architecture)
    model = base_of(folder, SINGLE, "lora").model
    method = METHODS["lora"](model, linear_names(model))
    samples = [np.arange(5, 5 + length) for length in (5, 9, 17, 18, 40, 48, 61)]
    PackedModel(model, method, [ONE], 1, samples, [np.arange(30)]).release()
    far = attention._window(40, 16, architecture != "gemma3-bidirectional", torch.device("cpu"))
    assert far[20, 5] and not far[20, 4]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("what", ["all", "later", "the filler"])
def test_attention_that_leaks_is_noticed(base: Path, tmp_path: Path, dtype: str, what: str) -> None:
    def leaks(module, query, key, value, mask, **kwargs):  # type: ignore[no-untyped-def]
        rows = query.shape[2]
        seen = torch.ones(rows, rows, dtype=torch.bool)
        if what == "later":
            seen = seen.triu()
        if what == "the filler":  # it is the last row
            seen = torch.eye(rows, dtype=torch.bool)
            seen[:, -1] = True
        return sdpa_attention_forward(module, query, key, value, seen[None, None], is_causal=False)

    AttentionInterface.register(ATTENTION, leaks)
    try:
        with pytest.raises(ModelError, match="see each other"):
            run(base, [trial(0, tmp_path)], 1, dtype=dtype)
    finally:
        AttentionInterface.register(ATTENTION, attend)


@pytest.mark.numbers
@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, 7), (False, None), (False, 7)])
def test_attention_by_plain_products_equals_torch_s_in_bfloat16_too(causal: bool, window: int | None) -> None:
    torch.manual_seed(0)
    real = torch.arange(33) < torch.tensor([33, 20, 1, 32, 9])[:, None]  # [n, length]
    group = Group(torch.zeros_like(real, dtype=torch.int64), real, (~real).flatten().nonzero().flatten())
    q, k, v, back = (torch.randn(5, heads, 33, 16).bfloat16() for heads in (6, 2, 2, 6))
    for part in (q, k, v):
        part.requires_grad_()
    wide_k, wide_v = (part.float().repeat_interleave(3, dim=1) for part in (k, v))
    place = torch.arange(33)
    near = (place[:, None] - place).abs() < (window or 33)
    itself = torch.eye(33, dtype=torch.bool)  # otherwise the query of a padding token might see no key
    seen = near & (place[:, None] >= place) if causal else near & real[:, None, None, :] | itself
    theirs = nn.functional.scaled_dot_product_attention(q.float(), wide_k, wide_v, attn_mask=seen)
    ours = attention._by_products(q, k, v, attention._mask(group, window, causal), causal, None).transpose(1, 2)
    read = real[:, None, :, None].expand_as(ours)
    same(ours[read], theirs[read], torch.bfloat16)
    got = torch.autograd.grad(ours[read], (q, k, v), back[read])
    wanted = torch.autograd.grad(theirs[read], (q, k, v), back[read].float())
    for mine, other in zip(got, wanted, strict=True):
        same(mine, other, torch.bfloat16)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "bert"])
def test_attention_of_short_texts_equals_that_of_transformers_own_call(
    tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch, in_float64: None
) -> None:
    folder = tiny_model(tmp_path / "base", architecture)
    plain = run(folder, [trial(0, tmp_path / "a")], 1)
    monkeypatch.setattr(attention, "SHORT", 0)
    called = run(folder, [trial(0, tmp_path / "b")], 1)
    same_training(plain, called)


def test_an_attention_with_a_soft_cap_is_one_clear_message(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base", "gemma2")
    with pytest.raises(ModelError, match=r"^model\.id: Gemma2Attention is not supported: attention with a soft cap$"):
        run(folder, [trial(0, tmp_path)], 1)


def test_a_refused_base_is_unchanged(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base", "gemma2")
    model = base_of(folder, SINGLE, "lora").model
    before = [type(part).__name__ for part in model.modules()]
    method = METHODS["lora"](model, linear_names(model))
    with pytest.raises(ModelError):
        PackedModel(model, method, [ONE], 2, [np.arange(5, 9)], [np.arange(5, 9)])
    assert [type(part).__name__ for part in model.modules()] == before


def test_a_rank_above_the_width_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"rank: 4096 is above the width of .* choose ranks up to"):
        pack_of(base, SINGLE, "lora", [trial(0, tmp_path, rank=4096)], 1)


def test_unknown_target_modules_are_refused_with_the_known_ones(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"target_modules: q_prok match no linear layer of the base; it has .*"):
        pack_of(base, SINGLE, "lora", [trial(0, tmp_path, target_modules=("q_prok",))], 1)


# Worker -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_test_split_that_does_not_fit_is_answered_with_the_reason(base: Path, tmp_path: Path, split: str) -> None:
    (one,) = trials = [trial(0, tmp_path)]
    passes: list[Pass] = []

    def full(one: Pass) -> None:
        """The test split is scored first, in one pass, then the validation split."""
        passes.append(one)
        if split == "test" or len(passes) > 1:
            raise torch.OutOfMemoryError("no room for 3 GiB")

    pack, queue = pack_of(base, MULTI, "lora", trials, 1, test=Texts(MULTI, 9, 3)), Queue(trials)
    run_pack(pack, queue)
    exported(pack, queue, one, tmp_path / "adapter")
    before_each_pass(pack, full)
    answer, *_ = PackWorker(pack).advance([ScoreTrial(one, adapter_files(tmp_path / "adapter"))])
    assert answer == Scored(0, None, "no room for 3 GiB")
    assert not pack.slots.occupied


def test_a_step_s_time_includes_the_study_s_work_after_it(base: Path, tmp_path: Path) -> None:
    class SlowQueue(Queue):
        def report(self, reports):  # type: ignore[no-untyped-def]
            time.sleep(0.5)
            return super().report(reports)

    trials = [trial(0, tmp_path)]
    queue, steps = SlowQueue(trials), []
    worker = PackWorker(pack_of(base, SINGLE, "lora", trials, 1), heartbeat=0.0)
    events = worker.advance([])
    while (commands := queue.answer(events)) or Idle() not in events:
        events = worker.advance(commands)
        steps += [step for event in events if isinstance(event, Progressed) for step in event.steps]
    judged = [step.seconds for step in steps if step.evaluations]
    assert judged and min(judged) >= 0.5
    assert sum(step.seconds for step in steps) < 0.5 * len(judged) + 60  # each pause counts only once
    assert min(step.seconds for step in steps if not step.evaluations) < 0.5


def test_progress_comes_once_a_heartbeat_and_at_the_end(base: Path, tmp_path: Path) -> None:
    heartbeat, trials = 0.1, [trial(0, tmp_path, epochs=12)]
    queue = Queue(trials)
    worker = PackWorker(pack_of(base, SINGLE, "lora", trials, 1), heartbeat)
    began, answers = time.perf_counter(), [worker.advance([])]
    while (commands := queue.answer(answers[-1])) or Idle() not in answers[-1]:
        answers.append(worker.advance(commands))
    found = [event for events in answers for event in events if isinstance(event, Progressed)]
    assert 2 <= len(found) <= 2 + (time.perf_counter() - began) / heartbeat
    assert sum(len(event.steps) for event in found) == 12 * 5  # 37 texts in batches of 8 are 5 steps


def test_a_checkpoint_on_demand_waits_for_the_verdict(base: Path, tmp_path: Path) -> None:
    trials = [trial(0, tmp_path)]
    queue = Queue(trials)
    worker = PackWorker(pack_of(base, SINGLE, "lora", trials, 1))
    events = worker.advance([])
    while not any(isinstance(event, Evaluated) for event in events):
        events = worker.advance(queue.answer(events))
    worker.advance([SaveCheckpoints()])
    assert not list(trials[0].folder.glob("checkpoint-*"))
    worker.advance([*queue.answer(events), SaveCheckpoints()])
    assert list(trials[0].folder.glob("checkpoint-*"))
