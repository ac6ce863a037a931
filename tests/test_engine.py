"""The pack: neighbours don't matter, nothing leaks, a checkpoint goes on as if nothing had happened."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from peftsweep.config import TrainConfig
from peftsweep.engine import Limits, Trial, build_that_fits, checkpoint
from peftsweep.engine.rows import Pooling, lay
from peftsweep.engine.schedule import Schedule
from peftsweep.errors import ModelError
from tests.packs import MULTI, SINGLE, Queue, Watched, pack_of
from tests.tiny import tiny_model

ONE = TrainConfig(rank=4, dropout=0.3, learning_rate=5e-3, batch_size=8, epochs=2, evals_per_epoch=2)


def trial(number: int, folder: Path, **changes: object) -> Trial:
    return Trial(number, 100 + number, ONE.model_copy(update=changes), folder / f"trial-{number}")


def neighbours(folder: Path) -> list[Trial]:
    """Seven that differ in everything; the shortest come first, so that their slots are refilled early."""
    return [
        trial(i, folder, rank=1 + i, batch_size=3 + 2 * i, epochs=1 + i // 3, learning_rate=1e-2 / i, dropout=0.1 * i)
        for i in range(1, 8)
    ]


def worst(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[key] - theirs[key]).abs().max()) for key in ours)


@pytest.fixture(scope="module", params=["llama", "bert"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"), request.param)


def run(base: Path, trials: list[Trial], slots: int, method: str = "lora", **kwargs: object) -> Watched:
    pack = pack_of(base, SINGLE, method, trials, slots, **kwargs)
    pack.run(Queue(trials))
    return pack


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_neighbours_do_not_matter(base: Path, tmp_path: Path, method: str) -> None:
    alone = run(base, [trial(0, tmp_path / "a")], 1, method).last[0]
    first = run(base, [trial(0, tmp_path / "b"), *neighbours(tmp_path / "b")], 4, method)
    # Three long ones hold slots 0 to 2, two short ones pass through slot 3 before it comes.
    long = [trial(i, tmp_path / "c", epochs=6, rank=i, dropout=0.1) for i in (1, 2, 3)]
    short = [trial(i, tmp_path / "c", epochs=1, learning_rate=0.05) for i in (4, 5)]
    last = run(base, [*long, *short, trial(0, tmp_path / "c")], 4, method)
    assert (first.where[0], last.where[0]) == (0, 3)
    assert worst(first.last[0], alone) < 1e-4
    assert worst(last.last[0], alone) < 1e-4
    other = run(base, [trial(0, tmp_path / "e", learning_rate=6e-3)], 1, method).last[0]
    assert worst(other, alone) > 1e-3  # the measure sees a difference where there is one


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_the_batched_layout_of_a_gpu_trains_the_same(base: Path, tmp_path: Path, method: str) -> None:
    by_slot = run(base, neighbours(tmp_path / "a"), 3, method, uniform=False)
    batched = run(base, neighbours(tmp_path / "b"), 3, method, uniform=True)
    for number, weights in by_slot.last.items():
        assert worst(batched.last[number], weights) < 1e-4


def test_micro_batches_add_up_to_the_batch(base: Path, tmp_path: Path) -> None:
    whole = run(base, [trial(0, tmp_path / "a", dropout=0.0)], 1)
    parts = run(base, [trial(0, tmp_path / "b", dropout=0.0)], 1, limits=Limits(train_tokens=25, eval_tokens=40))
    assert len(list(parts.micro_batches(np.arange(8)))) > 2
    assert worst(parts.last[0], whole.last[0]) < 1e-4
    np.testing.assert_allclose(parts.trace[0], whole.trace[0], atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "ia3", "qlora"])
def test_the_base_is_byte_identical_after_a_sweep(base: Path, tmp_path: Path, method: str) -> None:
    """Its weights, buffers, and what 4-bit layers keep beside their weights; after training, evaluation and a save."""
    pack = pack_of(base, MULTI, method, neighbours(tmp_path), 3)
    model = pack.packed.model
    own = {place.layer.stacked[place.name].data_ptr() for place in pack.stack.places}

    def digest() -> dict[str, str]:
        state = {name: t for name, t in model.state_dict().items() if "stacked" not in name and t.data_ptr() not in own}
        return {
            name: hashlib.sha256(t.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
            for name, t in state.items()
        }

    before = digest()
    assert len(before) > 20 and (method != "qlora" or any("nested_absmax" in name for name in before))
    pack.run(Queue(neighbours(tmp_path)))
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
            pack.start(i, one)
    broken.stack.weights[1].fill_(float("nan"))
    for _ in range(3):
        broken.step(queue)
        healthy.step(Queue(trials))
    assert queue.results[1].state == "failed"
    assert queue.results[1].reason == "loss is nan at step 1"
    assert torch.equal(broken.stack.weights[[0, 2]], healthy.stack.weights[[0, 2]])
    assert not broken.stack.weights[1].any() and not broken.stack.grads.any()


def test_a_cleared_slot_keeps_nothing(base: Path, tmp_path: Path) -> None:
    pack = run(base, neighbours(tmp_path), 2)
    assert not pack.stack.weights.any() and not pack.stack.grads.any()
    assert not any(any(layer.active) for layer in pack.stack.layers)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("stop", [1, 5, 6])  # before an evaluation, at one, after one (steps_per_epoch is 5)
def test_a_stopped_trial_goes_on_bit_for_bit(base: Path, tmp_path: Path, stop: int, optimizer: str) -> None:
    never = run(base, [trial(0, tmp_path / "a", optimizer=optimizer)], 1)
    again = [trial(0, tmp_path / "b", optimizer=optimizer)]
    stopped = pack_of(base, SINGLE, "lora", again, 1)
    queue = Queue(again)
    queue.stop_after = stop
    stopped.run(queue)
    assert stopped.slots[0] is not None and stopped.slots[0].step == stop
    resumed = run(base, again, 1)
    assert worst(resumed.last[0], never.last[0]) == 0.0
    assert stopped.trace[0] + resumed.trace[0] == never.trace[0]


def test_a_checkpoint_fits_a_pack_of_another_shape(base: Path, tmp_path: Path) -> None:
    never = run(base, [trial(0, tmp_path / "a")], 1)
    queue = Queue([trial(0, tmp_path / "b")])
    queue.stop_after = 4
    pack_of(base, SINGLE, "lora", [trial(0, tmp_path / "b")], 1).run(queue)
    wide = run(base, [*neighbours(tmp_path / "b"), trial(0, tmp_path / "b")], 8)
    assert worst(wide.last[0], never.last[0]) < 1e-4


def test_a_trial_evaluated_but_not_judged_is_judged_first(base: Path, tmp_path: Path) -> None:
    class Dies(Queue):
        def report(self, reports):  # type: ignore[no-untyped-def]
            raise KeyboardInterrupt

    trials = [trial(0, tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        pack_of(base, SINGLE, "lora", trials, 1).run(Dies(trials))
    queue = Queue(trials)
    queue.stop_after = 1
    pack_of(base, SINGLE, "lora", trials, 1).run(queue)
    assert [evaluation.index for evaluation in queue.evaluations[0]] == [1]


def test_half_a_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-000009-01.77").mkdir()
    assert checkpoint.newest(tmp_path) is None


@pytest.mark.parametrize("name", ["state.json", "state.safetensors", "best.safetensors", "logits.safetensors"])
def test_a_checkpoint_that_was_cut_off_is_passed_over_and_the_trial_begins_anew(
    base: Path, tmp_path: Path, name: str
) -> None:
    never = run(base, [trial(0, tmp_path / "a")], 1)
    queue = Queue([trial(0, tmp_path / "b")])
    queue.stop_after = 7
    pack_of(base, SINGLE, "lora", [trial(0, tmp_path / "b")], 1).run(queue)
    (folder,) = (tmp_path / "b" / "trial-0").glob("checkpoint-*")
    assert checkpoint.newest(folder.parent) == folder
    (folder / name).write_bytes((folder / name).read_bytes()[:-7])
    assert checkpoint.newest(folder.parent) is None
    again = run(base, [trial(0, tmp_path / "b")], 1)
    assert worst(again.last[0], never.last[0]) == 0.0 and len(again.trace[0]) == len(never.trace[0])


class Scarce(Watched):
    """A pack on a machine that evaluates two slots at once at the most, and trial 3 not at all."""

    def predict(self, slots, split):  # type: ignore[no-untyped-def]
        running = [self.slots[slot].trial.number for slot in slots]
        if len(slots) > 2 or 3 in running:
            raise torch.OutOfMemoryError("out of memory\nwith details")
        return super().predict(slots, split)


def test_an_evaluation_out_of_memory_goes_in_halves(base: Path, tmp_path: Path) -> None:
    free = run(base, [trial(i, tmp_path / "a") for i in range(4)], 4)
    trials = [trial(i, tmp_path / "b") for i in range(4)]
    pack, queue = pack_of(base, SINGLE, "lora", trials, 4, kind=Scarce), Queue(trials)
    pack.run(queue)
    assert [queue.results[i].state for i in range(4)] == ["complete"] * 3 + ["pruned"]
    assert queue.results[3].reason == "out of memory, even alone: out of memory"
    assert max(worst(pack.last[i], free.last[i]) for i in range(3)) < 1e-4


def test_a_pack_that_does_not_fit_is_built_of_fewer_slots() -> None:
    tried: list[int] = []

    def build(slots: int) -> str:
        tried.append(slots)
        if slots > 2:
            raise torch.OutOfMemoryError("no room")
        return f"a pack of {slots}"

    assert build_that_fits(build, 11) == "a pack of 2" and tried == [11, 5, 2]  # type: ignore[arg-type, comparison-overlap]


def test_a_pruned_trial_leaves_its_slot_to_the_next(base: Path, tmp_path: Path) -> None:
    class Prunes(Queue):
        def report(self, reports):  # type: ignore[no-untyped-def]
            super().report(reports)
            return [report.trial.number != 1 for report in reports]

    trials = [trial(i, tmp_path) for i in range(3)]
    pack, queue = pack_of(base, SINGLE, "lora", trials, 2), Prunes(trials)
    pack.run(queue)
    assert queue.results[1].state == "pruned" and queue.results[1].step == ONE_EVALUATION
    assert pack.where == {0: 0, 1: 1, 2: 1}
    assert queue.results[2].state == "complete"


ONE_EVALUATION = Schedule(ONE, 37).evaluations[0]


def test_pooling_chooses_the_token_that_transformers_chooses() -> None:
    text = np.array([7, 9, 0, 0])
    assert Pooling(last=False, pad_token_id=0, first_position=0).token(text) == 0
    assert Pooling(last=True, pad_token_id=0, first_position=0).token(text) == 1
    assert Pooling(last=True, pad_token_id=0, first_position=0).token(np.array([0])) == 0


@pytest.mark.parametrize("uniform", [False, True])
def test_rows_are_laid_back_to_back(uniform: bool) -> None:
    texts = [[np.array([5, 6, 7]), np.array([8])], [np.array([9, 10])]]
    rows = lay([3, 1], texts, Pooling(True, 0, 2), torch.device("cpu"), uniform)
    pads = [0, 0] if uniform else []
    assert rows.input_ids[0].tolist() == [5, 6, 7, 8, 9, 10, *pads]
    assert rows.position_ids[0].tolist() == [2, 3, 4, 2, 2, 3, *[2 for _ in pads]]
    assert rows.pooled.tolist() == [2, 3, 5, *([5] if uniform else [])]
    assert rows.tokens.slots == (3, 1) and rows.tokens.real == (4, 2)
    assert rows.groups[0].spread[:, :3].tolist() == [[0, 1, 2], [3, 3, 3], [4, 5, 5]]
    assert rows.groups[0].real.sum(dim=1).tolist() == [3, 1, 2]


def test_attention_groups_texts_of_like_length() -> None:
    texts = [np.arange(1, n + 1) for n in range(1, 65)]
    rows = lay([0], [texts], Pooling(True, 0, 0), torch.device("cpu"), uniform=False)
    assert [group.real.shape for group in rows.groups] == [(16, 16), (16, 32), (16, 48), (16, 64)]
    flat = torch.cat([group.spread.flatten() for group in rows.groups])
    assert torch.equal(flat[rows.gather], torch.arange(sum(range(65))))


def test_a_schedule_evaluates_evenly_and_at_the_end() -> None:
    schedule = Schedule(TrainConfig(epochs=3, batch_size=16, evals_per_epoch=2), rows=100)
    assert schedule.steps == 21 and schedule.evaluations[-1] == 21 and len(schedule.evaluations) == 6
    assert Schedule(TrainConfig(epochs=1, batch_size=64, evals_per_epoch=5), rows=100).evaluations == (1, 2)
    seen = np.concatenate([schedule.batch(step, seed=3) for step in range(7)])
    assert sorted(seen) == list(range(100))
    assert not np.array_equal(schedule.batch(0, 3), schedule.batch(7, 3))


@pytest.mark.parametrize("architecture", ["mistral", "gemma", "gemma3", "roberta", "xlm-roberta", "distilbert"])
def test_other_architectures_give_the_same_logits_packed(tmp_path: Path, architecture: str) -> None:
    folder = tiny_model(tmp_path / "base", architecture)
    trials = [trial(0, tmp_path, epochs=1), trial(1, tmp_path, epochs=1, rank=2)]
    pack = run(folder, trials, 2)  # a pack compares itself with the plain model before it starts
    assert sorted(pack.last) == [0, 1]


def test_a_rank_above_the_width_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"rank: 4096 is above the width of .* choose ranks up to"):
        pack_of(base, SINGLE, "lora", [trial(0, tmp_path, rank=4096)], 1)


def test_unknown_target_modules_are_refused_with_the_known_ones(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"target_modules: q_prok match no linear layer of the base; it has .*"):
        pack_of(base, SINGLE, "lora", [trial(0, tmp_path, target_modules=("q_prok",))], 1)
