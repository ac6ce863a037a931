"""The kernels against plain torch, as a GPU runs them; tests/test_kernels.py has what is compared."""

from __future__ import annotations

import pytest
import torch

from tests.gpu import MARKS
from tests.test_kernels import (
    DROPS,
    HEADS,
    RANK,
    WIDE,
    an_update_is_that_of_a_cpu,
    attention_in_tiles_is_that_within_each_text,
    ia3_is_that_of_plain_torch,
    lora_is_that_of_plain_torch,
)

pytestmark = MARKS
GPU = torch.device("cuda:0")
DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("drops", DROPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_lora_is_that_of_plain_torch(dtype: torch.dtype, drops: str) -> None:
    lora_is_that_of_plain_torch(GPU, dtype, drops, RANK)


# The wide ones in bf16 alone, as a pack has them: in fp32 tiles so wide are more than shared memory holds.
@pytest.mark.parametrize(
    ("dtype", "heads"),
    [(dtype, heads) for dtype in DTYPES for heads in HEADS] + [(torch.bfloat16, WIDE)],
)
def test_attention_in_tiles_is_that_within_each_text(
    dtype: torch.dtype, heads: tuple[int, int, int, bool, int | None]
) -> None:
    attention_in_tiles_is_that_within_each_text(GPU, dtype, *heads)


def test_an_update_is_that_of_a_cpu() -> None:
    an_update_is_that_of_a_cpu(GPU)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ia3_is_that_of_plain_torch(dtype: torch.dtype) -> None:
    ia3_is_that_of_plain_torch(GPU, dtype)
