"""Which architectures cannot be trained in a pack, and why: all refusals are worded here."""

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


def unsupported(model: nn.Module, why: str) -> ModelError:
    """The error of a base that is refused."""
    return ModelError(f"model.id: {type(model).__name__} is not supported: {why}")


def check_supported(model: Any) -> None:
    """Refuse a base whose parts alone say that it cannot be trained in a pack; what it computes is proven later.

    Raises:
        ModelError: see `unsupported`.
    """
    if getattr(model, str(model.base_model_prefix or "?"), None) is None:
        raise unsupported(model, "it has no backbone apart from its head")
    if getattr(model.config, "is_encoder_decoder", False):
        raise unsupported(model, "it reads a text by an encoder and then by a decoder; a pack trains either alone")
    if not linear_names(model):
        raise unsupported(model, f"adapters go on linear layers, and its backbone has {_instead_of_linear(model)}")
    for name in head_names(model):
        part = model.get_submodule(name)
        if not isinstance(part, nn.Linear):
            raise unsupported(model, f"its head is more than linear layers: {name} is a {type(part).__name__}")


def _instead_of_linear(model: Any) -> str:
    backbone = getattr(model, model.base_model_prefix)
    kinds = Counter(
        type(part).__name__
        for part in backbone.modules()
        if not isinstance(part, nn.Embedding) and getattr(getattr(part, "weight", None), "ndim", 0) == 2
    )
    return f"{kinds.most_common(1)[0][0]} in their place" if kinds else "none"


@contextmanager
def refusing(model: nn.Module, what: str) -> Iterator[None]:
    """Whatever a base's own code raises within becomes a refusal.

    Args:
        what: was tried, as in "packed, it cannot be run".
    """
    try:
        yield
    except (PeftsweepError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        said = shortened(" ".join(str(error).split()), 200)
        raise unsupported(model, f"{what}: {type(error).__name__}: {said}") from error
