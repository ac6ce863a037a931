"""What a loaded base is, and the names of its layers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from peftsweep.config import ModelConfig
from peftsweep.models import fingerprints
from peftsweep.models.model_errors import told


@dataclass(frozen=True, kw_only=True)
class BaseInfo:
    """What is known of a base without having it at hand. It can be pickled.

    Attributes:
        source: what `from_pretrained` takes to load the same weights: a hub id or a folder.
        revision: the hub's commit; None for a folder.
        parameters: of the backbone; the head is each trial's own.
        own_bits: whether its files hold it in 4 bits already.
        dtype: in which it computes (its weights' own unless they are held in 4 bits).
    """

    source: str
    revision: str | None
    parameters: int
    four_bit: bool
    dtype: torch.dtype
    device: torch.device
    own_bits: bool = False

    @property
    def hub(self) -> bool:
        """Whether the hub has it, in place of this machine: folders are absolute."""
        return not Path(self.source).is_absolute()


@dataclass(frozen=True, kw_only=True)
class Base(BaseInfo):
    """A frozen `AutoModelForSequenceClassification`."""

    model: Any

    @property
    def info(self) -> BaseInfo:
        return BaseInfo(**{field.name: getattr(self, field.name) for field in fields(BaseInfo)})


def default_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def text_part(model: Any) -> str:
    """Path of what reads texts: the backbone, or its language model where it has other parts, for pictures say."""
    prefix = str(model.base_model_prefix)
    if model.config.get_text_config() is model.config:
        return prefix
    embeddings = model.get_input_embeddings()
    (path,) = [name for name, part in model.named_modules() if part is embeddings]
    return ".".join(path.split(".")[: prefix.count(".") + 2])


def linear_names(model: Any) -> list[str]:
    """Paths of the linear layers (4-bit ones too) that read texts inside the backbone, in the model's own order."""
    prefix = f"{text_part(model)}."
    return [name for name, part in model.named_modules() if name.startswith(prefix) and _is_linear(part)]


def _is_linear(part: nn.Module) -> bool:
    """Whether it is a linear layer and no more: routers of experts are made of one, and give several things."""
    kind = type(part)
    return isinstance(part, nn.Linear) and (kind.forward is nn.Linear.forward or kind.__name__ == "Linear4bit")


def nf4_parts(linear: Any) -> tuple[Tensor, Tensor]:
    """A 4-bit layer's values, two a byte, and their scales, one for each 64 values, themselves unpacked: fp32."""
    from bitsandbytes.functional import dequantize_blockwise

    state = linear.weight.quant_state
    scales = state.absmax
    if state.nested:
        scales = dequantize_blockwise(scales, state.state2) + state.offset
    return linear.weight.data.as_subclass(Tensor), scales.float()


def is_4bit(linear: nn.Module) -> bool:
    return getattr(linear.weight, "quant_state", None) is not None


def head_names(model: Any) -> list[str]:
    """Paths of the modules outside the backbone that own parameters: the classification head."""
    prefix = model.base_model_prefix
    return [
        name
        for name, part in model.named_modules()
        if name != prefix and not name.startswith(f"{prefix}.") and any(True for _ in part.parameters(recurse=False))
    ]


def longest_text(model: Any) -> int | None:
    """How many tokens a text may have, where positions are learnt or limited."""
    config = model.config.get_text_config()
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions is not None and positions <= 0:  # XLNet says so that it has no limit
        positions = None
    embeddings = getattr(getattr(model, model.base_model_prefix), "embeddings", None)
    if positions is not None and hasattr(embeddings, "create_position_ids_from_input_ids"):
        return positions - int(config.pad_token_id) - 1  # the RoBERTa family counts from pad_token_id + 1
    return positions


def longrope_window(model: Any) -> int | None:
    """Tokens of a text beyond which a model with longrope (Ding et al., arXiv:2402.13753) turns all positions of its
    batch by other angles, those of shorter texts too."""
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope] if "rope_type" in rope else [kind for kind in rope.values() if isinstance(kind, dict)]
    windows = [kind["original_max_position_embeddings"] for kind in kinds if kind.get("rope_type") == "longrope"]
    return min(windows, default=None)


def revision_of(base: BaseInfo) -> str:
    """What tells this base from another of the same name: the hub's commit, or a fingerprint of the folder's files.

    Raises:
        ModelError: a file of the folder cannot be read any more.
    """
    if base.revision is not None:
        return base.revision
    with told(ModelConfig(id=base.source)):
        return fingerprints.of_folder(Path(base.source))


def is_at(base: BaseInfo, revision: str | None) -> bool:
    """Whether the base is at that revision, which version 0.1.0 may have written down.

    Raises:
        ModelError: see `revision_of`.
    """
    if revision == revision_of(base):
        return True
    with told(ModelConfig(id=base.source)):
        return base.revision is None and revision == fingerprints.older(Path(base.source))
