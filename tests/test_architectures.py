"""Does every architecture with a classification head in transformers train as in stock peft?

If not, it is refused with a reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor

from peftsweep.config import TrainConfig
from peftsweep.engine.equivalence import samples_of
from peftsweep.engine.packed_model import PackedModel
from peftsweep.errors import ModelError
from peftsweep.methods import METHODS, Method, lora
from peftsweep.models import linear_names
from tests.architectures import KINDS, UNBUILT, tiny_base
from tests.numbers import same, same_gradients

PARAMS = TrainConfig(rank=2, alpha=3.0)
TEXTS = [np.random.default_rng(n).integers(5, 100, size=n) for n in (17, 3, 9, 5, 19, 12, 6, 15)]
MINE, OTHERS = np.array([4, 1, 5, 2]), np.array([0, 3, 6, 7])  # a slot's texts, and its neighbour's
TRAINED = """
    arcee axk1 bert biogpt camembert cohere_compass_text data2vec-text deepseek_v2 deepseek_v3 diffllama distilbert
    electra ernie esmc exaone4 gemma gemma3 gemma3_text glm glm4 gpt_bigcode gpt_neox gte helium hunyuan_v1_dense
    hunyuan_v1_moe jetmoe jina_embeddings_v3 llama markuplm minicpm3 ministral ministral3 mistral mixtral nemotron
    nomic_bert olmo olmo2 olmo3 opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe roberta
    roberta-prelayernorm roc_bert seed_oss smollm3 stablelm starcoder2 ultrabert ultravbert xlm-roberta xlm-roberta-xl
"""


@pytest.mark.numbers
@pytest.mark.parametrize("name", ["lora", "ia3"])
@pytest.mark.parametrize("architecture", sorted(KINDS))
def test_an_architecture_trains_as_in_stock_peft_or_is_refused_with_a_reason(
    architecture: str, name: str, tmp_path: Path
) -> None:
    if architecture in UNBUILT:
        with pytest.raises(ImportError):
            tiny_base(KINDS[architecture])
        return
    model = tiny_base(KINDS[architecture])
    linears = linear_names(model)
    method, params = METHODS[name](model, linears), PARAMS
    if name == "lora":  # peft is asked only where there may be experts
        names = {path.rsplit(".", 1)[-1] for path in linears}
        assert lora.taken_elsewhere(model, names) == lora._by_peft(model, names)
    if name == "ia3" and linears:  # peft has default layers for only a few architectures
        params = TrainConfig(target_modules=linears, feedforward_modules=linears[-1:])
    try:
        packed = PackedModel(model, method, [params], 2, samples_of([TEXTS], model), TEXTS)
    except ModelError as error:
        refusal = str(error)
    else:
        refusal = ""
    assert (architecture in TRAINED.split()) == (not refusal), refusal
    if refusal:
        assert re.fullmatch(r"model\.id: \w+ is not supported: .{10,300}", refusal)
        return
    logits, weights, grads = packed_step(packed, params)
    packed.release()
    stock_logits, stock_grads = stock_step(model, method, params, weights, tmp_path)
    same(logits, stock_logits)
    same_gradients(grads, stock_grads, torch.float32)


def packed_step(
    packed: PackedModel, params: TrainConfig, texts: list[np.ndarray] = TEXTS
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Train the first slot beside a neighbour. Returns its logits, weights and gradients (both by `path:parameter`)."""
    stack, adapted = packed.stack, frozenset(layer.name for layer in packed.stack.layers)
    for slot in (0, 1):
        stack.start(slot, params, adapted, torch.Generator().manual_seed(slot))
        for part in stack.split(slot, stack.weights[slot], params).values():
            part.add_(torch.randn(part.shape, generator=torch.Generator().manual_seed(slot)) * 0.05)
    rows = packed.pack_texts([0, 1], [MINE, OTHERS], packed.corpus(texts))
    logits = packed.logits(rows, packed.context.no_dropout)
    (logits[: len(MINE)].cos().sum() + logits[len(MINE) :].sin().sum()).backward()
    mine = {name: part.clone() for name, part in stack.split(0, stack.weights[0], params).items()}
    return logits[: len(MINE)].detach(), mine, stack.split(0, stack.grads[0], params)


def stock_step(
    model: Any,
    method: Method,
    params: TrainConfig,
    weights: Mapping[str, Tensor],
    folder: Path,
    texts: list[np.ndarray] = TEXTS,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The same in stock peft, starting from the exported adapter."""
    method.export(folder, weights=weights, params=params, source="base", revision=None)
    stock = PeftModel.from_pretrained(model, str(folder), is_trainable=True).eval()
    texts = [texts[i] for i in MINE]
    ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = torch.from_numpy(text), 1
    logits = stock(input_ids=ids, attention_mask=mask).logits
    logits.cos().sum().backward()
    named = {name.replace(".default", "").replace(".modules_to_save", ""): p for name, p in stock.named_parameters()}
    found = {}
    for key, value in weights.items():
        name, _ = method._stored(key, value, params)
        grad = named[name].grad
        found[key] = torch.zeros_like(value) if grad is None else grad.view_as(value)
    return logits.detach(), found


def test_the_documents_give_their_number() -> None:
    said = (Path(__file__).parents[1] / "docs" / "questions.md").read_text(encoding="utf-8")
    assert f"the tests build a small model. {len(TRAINED.split())} of them train as" in said
