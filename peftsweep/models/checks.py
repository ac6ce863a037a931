"""What lies beside or inside a base and would be loaded unsaid; and whether what was loaded is what was asked for."""

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
from peftsweep.models.location import ADAPTER, Source, called, only_an_adapter
from peftsweep.safe_text.quoting import word
from peftsweep.task import Task

PLAIN = ("F64", "F32", "F16", "BF16")  # as safetensors calls them


def check_no_adapter(config: ModelConfig, source: Source) -> None:
    """transformers puts an adapter that lies beside a base on it.

    Raises:
        ModelError: there is one, or nothing but one.
    """
    found = find_adapter_config_file(source.name, revision=source.revision)
    if found is None:
        return
    if not source.hub or _has_config(source):
        raise ModelError(
            f"{called(config)} holds an adapter ({ADAPTER}) beside its base, which transformers would put on it; "
            "take it away, or merge it into the base"
        )
    raise ModelError(only_an_adapter(config, Path(found)))


def _has_config(source: Source) -> bool:
    options: dict[str, Any] = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_gated_repo": False,
    }
    return cached_file(source.name, "config.json", revision=source.revision, **options) is not None


def holds_4bit(config: ModelConfig, described: Any, *, four_bit: bool) -> bool:
    """Whether the base's own weights are held in 4 bits already, as a method wants them.

    Raises:
        ModelError: they are quantised in another way, or for a method that wants them whole.
    """
    said = getattr(described.get_text_config(), "quantization_config", None) or getattr(
        described, "quantization_config", None
    )
    if not said:
        return False
    if not isinstance(said, Mapping):
        said = said.to_dict() if hasattr(said, "to_dict") else {}
    kind = str(said.get("bnb_4bit_quant_type", "")) if said.get("load_in_4bit") else "8 bits"
    by = str(said.get("quant_method", "?"))
    if by == "bitsandbytes":
        by = f"{by}, {kind}"
    if by != "bitsandbytes, nf4":
        raise ModelError(
            f"{called(config)} is quantised already ({word(by)}): not supported; give the base that it was made of, "
            f"which method: {four_bit_methods()} holds in 4 bits"
        )
    if not four_bit:
        raise ModelError(
            f"{called(config)} is quantised already ({word(by)}), and this method trains on whole weights; set method: "
            f"{four_bit_methods()}, or give the base that it was made of"
        )
    return True


def check_filled(config: ModelConfig, report: Mapping[str, Any], skeleton: Any, *, heads: Sequence[str]) -> None:
    """Whether the files' weights and the configuration are of one model: transformers fills what is missing with random
    numbers, and drops what it has no use for.

    Args:
        report: what `from_pretrained` says of the loading.
        heads: what may be new.

    Raises:
        ModelError: they are not.
    """
    prefix = str(skeleton.base_model_prefix)
    own = dict(getattr(skeleton, prefix).named_children())
    made_up = {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
    strange = sorted(key for key in made_up if not key.startswith(tuple(f"{head}." for head in heads)))
    if len(strange) == sum(1 for name, _ in skeleton.named_parameters() if name.startswith(f"{prefix}.")):
        raise ModelError(f"{called(config)} holds another model's weights: none is one of those that it needs")
    if strange:
        raise ModelError(
            f"{called(config)} has no weights for {_some(strange)}, which would be random numbers; "
            "save it again as a whole, its pooler included"
        )
    left = [key for key in report["unexpected_keys"] if key.endswith(".weight")]  # others are buffers of old versions
    if unread := sorted(key for key in left if key.removeprefix(f"{prefix}.").partition(".")[0] in own):
        raise ModelError(
            f"{called(config)}: by its config.json, {_some(unread)} in its files would be left out; "
            "give the config.json of these weights"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(word, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def check_stored(config: ModelConfig, source: Source) -> None:
    """Whether the files hold weights as they are, if the configuration says no other way of reading them.

    Raises:
        ModelError: they hold whole numbers, or numbers of eight bits.
    """
    place = cached_file(source.name, "config.json", revision=source.revision)
    for path in sorted(Path(place or source.name).parent.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                kind = file.get_slice(name).get_dtype()
                if name.endswith(".weight") and kind not in PLAIN:
                    raise ModelError(
                        f"{called(config)}: its files hold {word(name)} as {kind}, and config.json does not "
                        "say how that is read: not supported; give the base that it was made of"
                    )


def check_loaded(config: ModelConfig, model: Any, task: Task, *, dtype: torch.dtype, four_bit: bool) -> None:
    """Whether the base is as it was asked for: its labels, its precision, nothing trainable and nobody's adapter in it.

    Raises:
        ModelError: it is not.
    """
    linears = [model.get_submodule(name) for name in linear_names(model)]
    held = {is_4bit(layer) for layer in linears}
    dtypes = {layer.weight.dtype for layer in linears if not is_4bit(layer)}
    foreign = [type(part).__name__ for part in model.modules() if type(part).__module__.startswith("peft.")]
    sizes = [part.out_features for part in map(model.get_submodule, head_names(model)) if isinstance(part, nn.Linear)]
    wrong = {
        f"labels: {len(task.labels)} asked for, its head has {sizes}": len(task.labels) not in sizes,
        f"{dtype} asked for, {dtypes} loaded": bool(dtypes - {dtype}),
        "4 bits asked for, none loaded": four_bit and True not in held,
        "its weights are in 4 bits": not four_bit and True in held,
        f"an adapter is on it ({foreign[:1]})": bool(foreign),
        "some of its parameters are trainable": any(part.requires_grad for part in model.parameters()),
    }
    if found := [what for what, is_so in wrong.items() if is_so]:
        raise ModelError(f"{called(config)} is not loaded as it was asked for: {'; '.join(found)}")
