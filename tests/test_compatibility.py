"""Is a study that does not fit its base refused before training?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, T5Config, XLNetConfig

from peftsweep.config import StudyConfig
from peftsweep.data.dataset import Dataset, Split
from peftsweep.errors import ModelError
from peftsweep.models import Base
from peftsweep.task import Task
from peftsweep.workers.compatibility import check_fit
from tests.architectures import tiny_base
from tests.packs import CPU
from tests.test_equivalence import longrope

LLAMA = partial(tiny_base, LlamaConfig)


def assert_fits(model: Any, max_length: int = 16, highest_id: int = 127) -> None:
    ids = (np.array([5, 6]), np.array([5, highest_id]))
    split = Split(("joy", "joy <image>"), np.array([0, 1]), ids)
    data = Dataset(Task("single-label", ("a", "b")), split, split, split, "", "")
    said = {"train": "t.csv", "text": "text", "labels": "label", "max_length": max_length}
    study = {"name": "s", "model": {"id": "b"}, "method": "lora", "data": said, "space": {}}
    base = Base(model=model, source="b", revision=None, parameters=1, four_bit=False, dtype=torch.float32, device=CPU)
    check_fit(base, StudyConfig.model_validate(study), data)


def test_a_study_that_fits_its_base() -> None:
    assert_fits(LLAMA(), max_length=64)
    assert_fits(longrope())
    assert_fits(tiny_base(XLNetConfig), max_length=1000)  # its configuration says -1 positions; only a pack refuses it


@pytest.mark.parametrize(
    ("base", "settings", "said"),
    [
        (LLAMA, {"max_length": 65}, "data.max_length: 65 is above the 64 positions of b; set it to 64 or less"),
        (
            longrope,
            {"max_length": 17},
            "data.max_length: 17: a text of more than 16 tokens would change how b reads the",
        ),
        (LLAMA, {"highest_id": 128}, "vocabulary of 128, in 1 texts of the train split; the first is 'joy <image>'"),
        (
            partial(tiny_base, T5Config),
            {},
            "T5ForSequenceClassification is not supported: it has both an encoder and a decoder",
        ),
    ],
)
def test_a_study_that_does_not_fit_its_base(base: Callable[[], Any], settings: dict[str, int], said: str) -> None:
    with pytest.raises(ModelError) as caught:
        assert_fits(base(), **settings)
    assert said in str(caught.value) and "\n" not in str(caught.value)
