"""Is the loaded base what was asked for? No adapter, no quantisation and no random weights may slip in unnoticed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from peftsweep.config import ModelConfig, four_bit_methods
from peftsweep.errors import ModelError
from peftsweep.models.base import head_names, is_4bit, linear_names
from peftsweep.models.location import ADAPTER, Source, adapter_without_base, message_prefix
from peftsweep.safe_text.quoting import word
from peftsweep.task import Task

PLAIN = ("F64", "F32", "F16", "BF16")  # their names in safetensors


def check_no_adapter(config: ModelConfig, source: Source) -> None:
    """Refuse an adapter beside the base, because transformers would silently apply it.

    Raises:
        ModelError: there is an adapter, with or without a base.
    """
    found = find_adapter_config_file(source.name, revision=source.revision)
    if found is None:
        return
    if not source.hub or _has_config(source):
        raise ModelError(
            f"{message_prefix(config)} holds an adapter ({ADAPTER}) beside its base, which transformers would apply; "
            "remove it, or merge it into the base"
        )
    raise ModelError(adapter_without_base(config, Path(found)))


def _has_config(source: Source) -> bool:
    options: dict[str, Any] = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_gated_repo": False,
    }
    return cached_file(source.name, "config.json", revision=source.revision, **options) is not None


def is_stored_in_4bit(config: ModelConfig, described: Any, *, four_bit: bool) -> bool:
    """Whether the files of the base already store its weights in NF4, as the method needs them.

    Raises:
        ModelError: they are quantised in another way, or the method needs them unquantised.
    """
    quantisation = getattr(described.get_text_config(), "quantization_config", None) or getattr(
        described, "quantization_config", None
    )
    if not quantisation:
        return False
    if not isinstance(quantisation, Mapping):
        quantisation = quantisation.to_dict() if hasattr(quantisation, "to_dict") else {}
    kind = str(quantisation.get("bnb_4bit_quant_type", "")) if quantisation.get("load_in_4bit") else "8 bits"
    by = str(quantisation.get("quant_method", "?"))
    if by == "bitsandbytes":
        by = f"{by}, {kind}"
    if by != "bitsandbytes, nf4":
        raise ModelError(
            f"{message_prefix(config)} is quantised already ({word(by)}), which is not supported; give "
            f"the base that it was made from, which method: {four_bit_methods()} holds in 4 bits"
        )
    if not four_bit:
        raise ModelError(
            f"{message_prefix(config)} is quantised already ({word(by)}), but this method needs unquantised "
            f"weights; set method: {four_bit_methods()}, or give the base that it was made from"
        )
    return True


def check_weights_fit_config(
    config: ModelConfig, report: Mapping[str, Any], skeleton: Any, *, heads: Sequence[str]
) -> None:
    """Check that the weights belong to the configuration: transformers fills missing weights with random numbers and
    drops unused ones.

    Args:
        report: the loading report of `from_pretrained`.
        heads: modules that may be new.

    Raises:
        ModelError: weights are missing, unused or of other shapes.
    """
    prefix = str(skeleton.base_model_prefix)
    own = dict(getattr(skeleton, prefix).named_children())
    new = tuple(f"{head}." for head in heads)
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(new))
    other_shapes = sorted(entry for entry in report["mismatched_keys"] if not entry[0].startswith(new))
    if missing and len(missing) + len(other_shapes) == sum(
        1 for name, _ in skeleton.named_parameters() if name.startswith(f"{prefix}.")
    ):
        raise ModelError(
            f"{message_prefix(config)} holds the weights of another model: it has none of those that it needs"
        )
    if missing:
        raise ModelError(
            f"{message_prefix(config)} has no weights for {_first_names(missing)}, which would be random; save "
            "the complete model again, including its pooler"
        )
    if other_shapes:
        name, stored, described = other_shapes[0]
        raise ModelError(
            f"{message_prefix(config)} has weights of other shapes than its configuration needs: {word(name)} is "
            f"{_shape(stored)}, not {_shape(described)}{_and_more(other_shapes, 1)}; give the config.json that belongs "
            "to these weights"
        )
    left = [key for key in report["unexpected_keys"] if key.endswith(".weight")]  # others are buffers of older versions
    if unread := sorted(key for key in left if key.removeprefix(f"{prefix}.").partition(".")[0] in own):
        raise ModelError(
            f"{message_prefix(config)}: by its config.json, {_first_names(unread)} in its files would be left out; "
            "give the config.json that belongs to these weights"
        )


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(map(word, names[:3])) + _and_more(names, 3)


def _and_more(found: Sequence[Any], shown: int) -> str:
    return f" and {len(found) - shown} more" if len(found) > shown else ""


def _shape(sizes: Sequence[int]) -> str:
    return " × ".join(map(str, sizes)) or "a single number"


def check_stored_dtypes(config: ModelConfig, source: Source) -> None:
    """Check that the files hold plain floats, for a configuration without quantisation.

    Raises:
        ModelError: they hold integers or 8-bit numbers.
    """
    place = cached_file(source.name, "config.json", revision=source.revision)
    for path in sorted(Path(place or source.name).parent.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                kind = file.get_slice(name).get_dtype()
                if name.endswith(".weight") and kind not in PLAIN:
                    raise ModelError(
                        f"{message_prefix(config)}: its files hold {word(name)} as {kind}, and config.json does not "
                        "say how to read that: not supported; give the base that it was made from"
                    )


def check_loaded(config: ModelConfig, model: Any, task: Task, *, dtype: torch.dtype, four_bit: bool) -> None:
    """Check the labels and precision of the base, and that it has no trainable parameters and no adapter.

    Raises:
        ModelError: something differs from what was asked for.
    """
    linears = [model.get_submodule(name) for name in linear_names(model)]
    in_4bit = {is_4bit(layer) for layer in linears}
    dtypes = {layer.weight.dtype for layer in linears if not is_4bit(layer)}
    foreign = [type(part).__name__ for part in model.modules() if type(part).__module__.startswith("peft.")]
    sizes = [part.out_features for part in map(model.get_submodule, head_names(model)) if isinstance(part, nn.Linear)]
    wrong = {
        f"labels: {len(task.labels)} asked for, its head has {sizes}": len(task.labels) not in sizes,
        f"{dtype} asked for, {dtypes} loaded": bool(dtypes - {dtype}),
        "4 bits asked for, none loaded": four_bit and True not in in_4bit,
        "its weights are in 4 bits": not four_bit and True in in_4bit,
        f"it has an adapter ({foreign[:1]})": bool(foreign),
        "some of its parameters are trainable": any(part.requires_grad for part in model.parameters()),
    }
    if found := [what for what, is_so in wrong.items() if is_so]:
        raise ModelError(f"{message_prefix(config)} was not loaded as asked for: {'; '.join(found)}")
