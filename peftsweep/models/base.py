"""What is known of a loaded base: its size, precision, device, limits and the paths of its layers?"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from peftsweep.config import ModelConfig
from peftsweep.models import fingerprints
from peftsweep.models.model_errors import as_model_errors


@dataclass(frozen=True, kw_only=True)
class BaseInfo:
    """What is known of a base, without the live model. It can be pickled.

    Attributes:
        source: the hub id or folder from which `from_pretrained` loads the same weights.
        revision: the commit on the hub; None for a folder.
        parameters: number of parameters of the backbone. Each trial has its own head.
        four_bit: whether the backbone is held in NF4.
        dtype: the number format in which it computes, and of its weights unless they are in 4 bits.
        own_bits: whether its files already store it in 4 bits.
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
        """Whether the source is a hub id. Folders are always absolute paths."""
        return not Path(self.source).is_absolute()

    @property
    def weights_format(self) -> str:
        """The number format of its weights, such as "bfloat16" or "nf4"."""
        return "nf4" if self.four_bit else str(self.dtype).removeprefix("torch.")


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


def text_backbone(model: Any) -> str:
    """Path of the module that reads texts: the backbone, or its language model if it has a vision tower."""
    prefix = str(model.base_model_prefix)
    if model.config.get_text_config() is model.config:
        return prefix
    embeddings = model.get_input_embeddings()
    (path,) = [name for name, part in model.named_modules() if part is embeddings]
    return ".".join(path.split(".")[: prefix.count(".") + 2])


def linear_names(model: Any) -> list[str]:
    """Paths of the linear layers (4-bit ones too) that read texts inside the backbone, in the model's own order."""
    prefix = f"{text_backbone(model)}."
    return [name for name, part in model.named_modules() if name.startswith(prefix) and _is_linear(part)]


def _is_linear(part: nn.Module) -> bool:
    """Whether it is exactly a linear layer. Routers of experts derive from one but return several values."""
    kind = type(part)
    return isinstance(part, nn.Linear) and (kind.forward is nn.Linear.forward or kind.__name__ == "Linear4bit")


def nf4_values_and_scales(linear: Any) -> tuple[Tensor, Tensor]:
    """The packed values of a 4-bit layer (two per byte), and their scales (one per 64 values) dequantised to fp32."""
    from bitsandbytes.functional import dequantize_blockwise

    state = linear.weight.quant_state
    scales = state.absmax
    if state.nested:
        scales = dequantize_blockwise(scales, state.state2) + state.offset
    return linear.weight.data.as_subclass(Tensor), scales.float()


def is_4bit(linear: nn.Module) -> bool:
    return getattr(linear.weight, "quant_state", None) is not None


def head_names(model: Any) -> list[str]:
    """Paths of the modules outside the backbone that own parameters: those of the classification head."""
    prefix = model.base_model_prefix
    return [
        name
        for name, part in model.named_modules()
        if name != prefix and not name.startswith(f"{prefix}.") and any(True for _ in part.parameters(recurse=False))
    ]


def max_text_tokens(model: Any) -> int | None:
    """The largest number of tokens in a text; None if positions are unlimited."""
    config = model.config.get_text_config()
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions is not None and positions <= 0:  # XLNet says so to mean no limit
        positions = None
    embeddings = getattr(getattr(model, model.base_model_prefix), "embeddings", None)
    if positions is not None and hasattr(embeddings, "create_position_ids_from_input_ids"):
        return positions - int(config.pad_token_id) - 1  # the RoBERTa family counts from pad_token_id + 1
    return positions


def longrope_window(model: Any) -> int | None:
    """Length in tokens beyond which a text makes a model with LongRoPE (Ding et al., arXiv:2402.13753) rotate positions
    by other angles in its whole batch, also for shorter texts; None for other models."""
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope] if "rope_type" in rope else [kind for kind in rope.values() if isinstance(kind, dict)]
    windows = [kind["original_max_position_embeddings"] for kind in kinds if kind.get("rope_type") == "longrope"]
    return min(windows, default=None)


def revision_of(base: BaseInfo) -> str:
    """What identifies this version of the base: the commit on the hub, or a fingerprint of the files in its folder.

    Raises:
        ModelError: a file of the folder can no longer be read.
    """
    if base.revision is not None:
        return base.revision
    with as_model_errors(ModelConfig(id=base.source)):
        return fingerprints.of_folder(Path(base.source))


def is_at_revision(base: BaseInfo, revision: str | None) -> bool:
    """Whether the base has that revision, which version 0.1.0 may have recorded in its own format.

    Raises:
        ModelError: see `revision_of`.
    """
    if revision == revision_of(base):
        return True
    with as_model_errors(ModelConfig(id=base.source)):
        return base.revision is None and revision == fingerprints.of_folder_0_1(Path(base.source))
