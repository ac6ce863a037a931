"""Which architectures cannot be trained in a pack, and why? All such messages are made here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from peftsweep.errors import ModelError, PeftsweepError
from peftsweep.models.base import head_names, linear_names
from peftsweep.safe_text.quoting import shortened


def unsupported_error(model: nn.Module, why: str) -> ModelError:
    """The error for a base that is not supported."""
    return ModelError(f"model.id: {type(model).__name__} is not supported: {why}")


def check_supported(model: Any) -> None:
    """Refuse a base whose parts show that it cannot be trained in a pack. What it computes is checked later.

    Raises:
        ModelError: see `unsupported`.
    """
    if getattr(model, str(model.base_model_prefix or "?"), None) is None:
        raise unsupported_error(model, "it has no backbone separate from its head")
    if getattr(model.config, "is_encoder_decoder", False):
        raise unsupported_error(
            model, "it has both an encoder and a decoder; a pack trains models with only one of them"
        )
    if not linear_names(model):
        raise unsupported_error(model, f"adapters need linear layers, but its backbone has {_instead_of_linear(model)}")
    for name in head_names(model):
        part = model.get_submodule(name)
        if not isinstance(part, nn.Linear):
            raise unsupported_error(model, f"its head is more than linear layers: {name} is a {type(part).__name__}")


def _instead_of_linear(model: Any) -> str:
    backbone = getattr(model, model.base_model_prefix)
    kinds = Counter(
        type(part).__name__
        for part in backbone.modules()
        if not isinstance(part, nn.Embedding) and getattr(getattr(part, "weight", None), "ndim", 0) == 2
    )
    return f"{kinds.most_common(1)[0][0]} instead" if kinds else "none"


@contextmanager
def unsupported_if_it_fails(model: nn.Module, what: str) -> Iterator[None]:
    """Turn any error of the base's own code into an `unsupported_error`.

    Args:
        what: the beginning of the reason, such as "packed, it cannot be run".
    """
    try:
        yield
    except (PeftsweepError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        reason = shortened(" ".join(str(error).split()), 200)
        raise unsupported_error(model, f"{what}: {type(error).__name__}: {reason}") from error
