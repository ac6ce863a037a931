"""The last block runs on the pooled tokens alone: it sees fewer rows and gives the same numbers as the whole block."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from peftsweep.config import TrainConfig
from peftsweep.engine import Trial
from peftsweep.layers import PackedLayer, attention
from peftsweep.layers.pooled_last_block import PooledBlockForward
from tests.numbers import distance, same, same_losses, same_training
from tests.packs import MULTI, SINGLE, Queue, Texts, base_of, pack_of, pack_on, run_pack, with_the_whole_block
from tests.stock_training import peft_alone
from tests.tiny import tiny_model

SUPPORTED = ["llama", "mistral", "gemma", "gemma3", "gemma3-bidirectional", "bert", "roberta", "xlm-roberta"]
SUPPORTED += ["distilbert", "electra", "qwen3", "phi3", "olmo2", "gpt-neox"]
BEFORE_ATTENTION = {"q_proj", "k_proj", "v_proj", "query", "key", "value", "q_lin", "k_lin", "v_lin"}
BEFORE_ATTENTION |= {"qkv_proj", "query_key_value"}


def trials(folder: Path, **changes: Any) -> list[Trial]:
    """Two trials; the second has fewer texts in a batch."""
    plans = [TrainConfig(epochs=1, batch_size=size, learning_rate=5e-3, **changes) for size in (8, 3)]
    return [Trial(i, 100 + i, params, folder / f"trial-{i}") for i, params in enumerate(plans)]


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_after_attention_the_last_block_sees_one_row_per_text(tmp_path: Path, architecture: str) -> None:
    pack = pack_of(tiny_model(tmp_path / "base", architecture), MULTI, "lora", trials(tmp_path), 2)
    seen: dict[str, list[int]] = {}

    def watch(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        assert isinstance(layer, PackedLayer)
        seen.setdefault(layer.name, []).append(output.shape[-2])

    for layer in pack.stack.layers:
        if layer.name not in pack.packed.heads and "pooler" not in layer.name:
            layer.register_forward_hook(watch)
    slots = [pack.slots.put(trial.number, trial) for trial in trials(tmp_path)]
    (batch,) = pack.batcher.micro_batches(slots, pack.runner.limits)
    pack.runner.backward(batch)
    tokens, texts = batch.rows.input_ids.shape[1], 8 + 3
    assert len(batch.rows.pooled) == texts < tokens
    last = [name for name in seen if ".1." in name]
    before = [name for name in last if name.rpartition(".")[2] in BEFORE_ATTENTION]
    assert len(before) in (1, 3) and len(last) - len(before) >= 3 and len(seen) == 2 * len(last)
    for name, rows in seen.items():
        assert rows == ([tokens] if name not in last else [tokens, texts] if name in before else [texts]), name


@pytest.mark.parametrize("method", ["lora", "ia3", "qlora"])
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "bert"])
def test_the_pooled_block_trains_as_the_whole_block_does(
    tmp_path: Path, architecture: str, method: str, in_float64: None
) -> None:
    folder = tiny_model(tmp_path / "base", architecture)
    pack = pack_of(folder, SINGLE, method, trials(tmp_path / "a"), 2)
    whole = with_the_whole_block(pack_of(folder, SINGLE, method, trials(tmp_path / "b"), 2))
    for some, where in ((pack, "a"), (whole, "b")):
        run_pack(some, Queue(trials(tmp_path / where)))
    same_training(pack, whole)
    assert all(distance(pack.last[number], pack.first[number]) > 0.1 for number in (0, 1))  # training moved the weights


@pytest.mark.numbers
def test_nothing_reads_the_rows_that_fill_up_the_pooled_ones(tmp_path: Path) -> None:
    """On a GPU, extra rows follow the pooled ones; here these rows hold NaN."""
    pack = pack_of(tiny_model(tmp_path / "base", "llama"), SINGLE, "lora", trials(tmp_path), 2)
    slots = [pack.slots.put(trial.number, trial) for trial in trials(tmp_path)]
    (batch,) = pack.batcher.micro_batches(slots, pack.runner.limits)
    more = torch.full((5,), batch.rows.input_ids.shape[1] - 1)
    filled = replace(batch.rows, pooled=torch.cat([batch.rows.pooled, more]))
    grads = []
    for rows in (batch.rows, filled):
        pack.runner.backward(replace(batch, rows=rows))
        grads.append(pack.stack.grads.clone())
        pack.stack.grads.zero_()
    same(*grads)
    with torch.no_grad():
        expected = pack.packed.logits(batch.rows, batch.masks)
        same(pack.packed.logits(filled, batch.masks), expected)
        seen: list[int] = []

        def damage(layer: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            seen.append(output.shape[1])
            return output.index_fill(1, torch.arange(11, 16), torch.nan)

        pack.packed.model.get_submodule("model.layers.1.mlp.down_proj").register_forward_hook(damage)
        same(pack.packed.logits(filled, batch.masks), expected)
        assert seen == [16]


@pytest.mark.numbers
def test_one_text_of_one_token_gives_the_logits_of_the_whole_block(tmp_path: Path) -> None:
    folder, found = tiny_model(tmp_path / "base", "llama"), []
    for whole in (False, True):
        pack = pack_of(folder, SINGLE, "lora", trials(tmp_path), 2)
        pack.slots.put(0, trials(tmp_path)[0])
        if whole:
            with_the_whole_block(pack)
        found.append(torch.from_numpy(pack.runner.logits_of([0], pack.packed.corpus([np.array([7])]))))
    same(*found)


@pytest.mark.numbers
def test_a_text_that_ends_in_padding_is_pooled_at_the_token_that_the_head_reads(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base", "gemma")
    split = Texts(SINGLE, 12, 5)
    split.input_ids = [np.append(text, np.zeros(i % 3, np.int64)) for i, text in enumerate(split.input_ids)]
    found = []
    for whole in (False, True):
        pack = pack_of(folder, SINGLE, "lora", trials(tmp_path), 2)
        pack.slots.put(0, trials(tmp_path)[0])
        if whole:
            with_the_whole_block(pack)
        found.append(torch.from_numpy(pack.runner.logits_of([0], pack.packed.corpus(split.input_ids))))
    same(*found)


def test_a_block_that_runs_more_than_once_stays_whole(tmp_path: Path, in_float64: None) -> None:
    """Its second run needs the rows of all tokens from the first."""
    folder = tiny_model(tmp_path / "base", "llama")
    trial = trials(tmp_path)[0]

    def looped() -> Any:
        model = base_of(folder, MULTI, "lora").model
        model.model.layers.append(model.model.layers[-1])
        model.config.num_hidden_layers = 3
        return model

    model = looped()
    expected = model(input_ids=torch.tensor([[5, 6, 7]])).logits
    pack, queue = pack_on(model, MULTI, "lora", [trial], 1), Queue([trial])
    assert pack.packed.last is None
    run_pack(pack, queue)
    assert queue.notes == ["last block: computed for all tokens, which is slower: the base fails with fewer"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.stock_training.base_of", lambda *args: type("Base", (), {"model": looped()}))
        losses, _ = peft_alone(folder, MULTI, "lora", trial, pack.first[0])
    same_losses(pack.trace[0], losses, pack.dtype)
    pack.release()
    assert torch.equal(model(input_ids=torch.tensor([[5, 6, 7]])).logits, expected)


@pytest.mark.parametrize("part", ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"])
def test_a_pass_after_an_error_in_the_last_block_works_as_usual(tmp_path: Path, part: str) -> None:
    pack = pack_of(tiny_model(tmp_path / "base", "llama"), MULTI, "lora", trials(tmp_path), 2)
    slot = pack.slots.put(0, trials(tmp_path)[0])
    pack.runner.backward(pack.batcher.micro_batches([slot], pack.runner.limits)[0])
    expected = pack.stack.grads.clone()

    def full(*args: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    pack.stack.grads.zero_()
    hook = pack.packed.model.get_submodule(f"model.layers.1.{part}").register_forward_hook(full)
    with pytest.raises(torch.OutOfMemoryError):
        pack.runner.backward(pack.batcher.micro_batches([slot], pack.runner.limits)[0])
    hook.remove()
    pack.stack.grads.zero_()
    pack.runner.backward(pack.batcher.micro_batches([slot], pack.runner.limits)[0])
    assert expected.any() and torch.equal(pack.stack.grads, expected)


@pytest.mark.parametrize("own", [False, True])
def test_a_released_base_has_its_own_last_block(tmp_path: Path, own: bool) -> None:
    """It gets back its class's own block, or the one that somebody had put in its place, and may be released again."""
    base = base_of(tiny_model(tmp_path / "base", "bert"), MULTI, "lora")
    block = base.model.bert.encoder.layer[-1]
    if own:
        block.forward = partial(block.forward)
    before = vars(block).get("forward")
    pack = pack_on(base.model, MULTI, "lora", trials(tmp_path), 2)
    assert isinstance(vars(block)["forward"], PooledBlockForward)
    pack.release()
    pack.release()
    assert vars(block).get("forward") is before and (before is not None) == own


@pytest.mark.parametrize("error", [KeyError, AssertionError, ValueError])
def test_a_block_that_rejects_fewer_rows_stays_whole(tmp_path: Path, error: type[Exception]) -> None:
    base = base_of(tiny_model(tmp_path / "base", "bert"), MULTI, "lora")

    def strict(layer: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if attention._thread.replayed is not None:  # the second run, for the pooled rows
            raise error("too few")

    base.model.bert.encoder.layer[-1].intermediate.register_forward_pre_hook(strict)
    pack = pack_on(base.model, MULTI, "lora", trials(tmp_path), 2)
    assert pack.packed.last is None


def test_a_block_that_never_runs_is_not_taken_for_the_last(tmp_path: Path) -> None:
    """With one text of an encoder, whose pooled token is its first and only one."""
    base = base_of(tiny_model(tmp_path / "base", "bert"), MULTI, "lora")
    base.model.bert.idle = nn.ModuleList(nn.Identity() for _ in range(5))
    one = Texts(MULTI, 1, 2, 1, 1)
    assert pack_on(base.model, MULTI, "lora", trials(tmp_path), 2, validation=one).packed.last is None


def test_a_block_without_attention_is_reported() -> None:
    with pytest.raises(ValueError, match="without attention"):
        attention.capture_attention(lambda: None)
    assert not attention._thread.capturing
