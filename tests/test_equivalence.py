"""Is a base that would give other logits after the export refused before training?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Phi3Config, RobertaConfig

from peftsweep.engine.equivalence import FEW, samples_of
from peftsweep.engine.packed_model import PackedModel
from peftsweep.errors import ModelError
from peftsweep.methods import METHODS
from peftsweep.models import linear_names, longrope_window, max_text_tokens
from tests.architectures import tiny_base
from tests.numbers import same
from tests.test_architectures import MINE, PARAMS, packed_step, stock_step

ALL_WORDS = np.arange(5, 128)


def packed_on(model: Any, texts: list[np.ndarray], slots: int = 2) -> PackedModel:
    method = METHODS["lora"](model, linear_names(model))
    return PackedModel(model, method, [PARAMS], slots, samples_of([texts], model), texts)


def text(length: int, *, at: tuple[int, ...] = (), token: int = 1) -> np.ndarray:
    """Random words, with `token` at the places `at`."""
    words = np.random.default_rng(length).choice(ALL_WORDS, length)
    words[list(at)] = token
    return words


def test_the_proof_uses_the_texts_that_prove_most() -> None:
    model = tiny_base(RobertaConfig)  # its special tokens are 0 (pad), 2 (bos) and 3 (eos)
    plain = [text(5 + i % 7) for i in range(200)]
    odd = [text(9, at=(3,), token=0), text(9, at=(3, 4), token=0), text(8, at=(0, 5), token=3), text(1), text(40)]
    chosen = samples_of([plain[:100] + odd[:3], plain[100:] + odd[3:]], model)
    assert [len(each) for each in chosen] == sorted(len(each) for each in chosen)
    found = [any(each is one for each in chosen) for one in odd]
    assert found == [False, True, True, True, True] and FEW <= len(chosen) <= FEW + 3


@pytest.mark.numbers
def test_padding_tokens_within_a_text_are_treated_as_in_transformers(tmp_path: Path) -> None:
    """They come from a literal `<pad>` in a text. The RoBERTa family does not count them as positions."""
    model = tiny_base(RobertaConfig)
    texts = [text(9), text(12, at=(4, 5), token=0), text(6), text(4), text(17, at=(16,), token=0), text(3), text(5)]
    texts += [text(8, at=(1, 2, 7), token=0)]
    packed = packed_on(model, texts)
    logits, weights, _ = packed_step(packed, PARAMS, texts)
    packed.release()
    stock, _ = stock_step(model, METHODS["lora"](model, linear_names(model)), PARAMS, weights, tmp_path, texts)
    assert {1, 4} & set(MINE)
    same(logits, stock)


def longrope() -> Any:
    factors = {"short_factor": [1.0] * 4, "long_factor": [8.0] * 4, "rope_theta": 10000.0}
    rope = {"rope_type": "longrope"} | factors
    # With weights as small as transformers' defaults, the angles would change logits no more than rounding does.
    return tiny_base(Phi3Config, rope_parameters=rope, original_max_position_embeddings=16, initializer_range=0.2)


def test_longrope_allows_only_texts_on_one_side_of_its_window() -> None:
    model = longrope()
    assert (max_text_tokens(model), longrope_window(model)) == (64, 16)
    for lengths in ((3, 9, 16), (17, 30, 41)):
        packed_on(model, [text(length) for length in lengths]).release()
    with pytest.raises(ModelError, match="gives a text other logits in a padded batch than alone"):
        packed_on(model, [text(length) for length in (3, 9, 17)])


def test_a_base_whose_logits_are_not_finite_is_refused() -> None:
    model = tiny_base(RobertaConfig)
    model.roberta.embeddings.word_embeddings.weight[77] = torch.inf
    texts = [text(5, at=tuple(range(5)), token=6), text(60, at=(9,), token=77)]
    with pytest.raises(ModelError, match="no finite logits"):
        packed_on(model, texts)
