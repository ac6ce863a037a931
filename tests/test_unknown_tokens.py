"""A warning says which share of the tokens is unknown to the base's tokenizer, unless it is small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from peftsweep.config import DataConfig
from peftsweep.data import load
from peftsweep.data.unknown_tokens import unknown_token_warning
from tests.tiny import NOISE, tiny_tokenizer, write

TOKENIZER = tiny_tokenizer(decoder=False)  # it adds a token before each text and one after it


def warning_about(*texts: str) -> str | None:
    return unknown_token_warning([np.array(ids) for ids in TOKENIZER(list(texts))["input_ids"]], TOKENIZER)


def test_texts_in_a_language_that_the_tokenizer_does_not_know_are_reported(tmp_path: Path) -> None:
    warning = warning_about("слова всё чужие", "ничего нет", "the word")
    assert warning is not None and warning.startswith("71% of the tokens are unknown to the base's tokenizer (<unk>)")
    assert "and 2 of 3 texts have no other: nothing can be learned from them" in warning
    rows = [{"text": f"слово{i}", "label": "ab"[i % 2]} for i in range(20)]
    config = DataConfig(train=str(write(tmp_path / "train.csv", rows)), text="text", labels="label")
    warnings: list[str] = []
    load(config, TOKENIZER, note=lambda text: None, warn=warnings.append)
    assert any(f"{config.train}: column text: 100% of the tokens are unknown" in text for text in warnings), warnings


@pytest.mark.parametrize(("strange", "is_reported"), [(0, False), (5, False), (6, True)])
def test_a_few_unknown_words_are_not_reported(strange: int, is_reported: bool) -> None:
    words = [NOISE[i % len(NOISE)] for i in range(100 - strange)] + ["неведомо"] * strange
    assert (warning_about(*words) is not None) == is_reported


def test_a_tokenizer_of_bytes_has_no_unknown_tokens() -> None:
    tokenizer = tiny_tokenizer(decoder=True)
    tokenizer.unk_token = None
    assert (
        unknown_token_warning([np.array([1, 1, 1])], tokenizer) is None and unknown_token_warning([], TOKENIZER) is None
    )
