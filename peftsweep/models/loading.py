"""Loading a base, and saying in one line why it cannot be loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

from peftsweep.config import ModelConfig
from peftsweep.errors import ExportError, ModelError
from peftsweep.models.base import Base, head_names
from peftsweep.models.checks import check_filled, check_loaded, check_no_adapter, check_stored, holds_4bit
from peftsweep.models.location import Source, called, locate
from peftsweep.models.model_errors import NO_TOKENIZER, told
from peftsweep.models.padding import is_padding, own_padding, padding_token, set_padding
from peftsweep.models.quiet import mute
from peftsweep.models.sizes import check_described, check_weights
from peftsweep.models.supported import check_supported
from peftsweep.task import Task


def load_tokenizer(config: ModelConfig) -> Any:
    """The base's tokenizer.

    Raises:
        ModelError: see `load_base`.
    """
    return _tokenizer(config, _found(config))


def _found(config: ModelConfig) -> Source:
    """Raises:
    ModelError: it cannot be looked for, or is not there.
    """
    with told(config):
        return locate(config)


def saved_tokenizer(folder: Path, *, trust_remote_code: bool) -> Any:
    """A tokenizer that `export` saved in a folder.

    Args:
        trust_remote_code: run the code that it brings along, if it brings any.

    Raises:
        ExportError: it cannot be loaded.
    """
    place = ModelConfig(id=str(folder), trust_remote_code=trust_remote_code)
    try:
        return _tokenizer(place, Source(str(folder), None, hub=False))
    except ModelError as error:
        reason = str(error).removeprefix(f"{called(place)}: ").partition(". ")[0]
        raise ExportError(f"{folder}: its tokenizer {reason}; export it again") from error


def _tokenizer(config: ModelConfig, source: Source) -> Any:
    trusted = config.trust_remote_code
    with told(config, source), mute():
        check_described(config, source)
        tokenizer = AutoTokenizer.from_pretrained(source.name, revision=source.revision, trust_remote_code=trusted)
        made_up = len(tokenizer) <= len(tokenizer.all_special_ids)  # as transformers does where there are no files
        tokenizer("")  # a spoilt one loads, and fails or panics when it is used
    if made_up:
        raise ModelError(f"{called(config)}: {NO_TOKENIZER}")
    if not trusted:
        tokenizer.init_kwargs.pop("auto_map", None)  # so that a copy names no code either
    return tokenizer


def load_base(
    config: ModelConfig,
    task: Task,
    *,
    four_bit: bool,
    device: torch.device,
    pad: int | None = None,
    trained_head: bool = False,
) -> Base:
    """Load the base frozen, with a new head for the task.

    Args:
        four_bit: hold the backbone in NF4 with double quantisation (Dettmers et al., 2023, arXiv:2305.14314), or as it
            is where the base comes in NF4; the head stays as it is.
        pad: the token that pads, where it is known.
        trained_head: it has one for this task already, which is kept: a merged export.

    Raises:
        ModelError: it is not there, gated, cannot be reached, has no safetensors, or no head for classification; it is
            not supported; or there is more in it than a base.
    """
    source = _found(config)
    with told(config, source):
        return _frozen(config, source, task, four_bit=four_bit, device=device, pad=pad, trained_head=trained_head)


def _frozen(
    config: ModelConfig,
    source: Source,
    task: Task,
    *,
    four_bit: bool,
    device: torch.device,
    pad: int | None,
    trained_head: bool,
) -> Base:
    dtype = _dtype(config.dtype, device, four_bit)
    trusted, options = config.trust_remote_code, {}
    check_described(config, source)
    check_no_adapter(config, source)
    described = AutoConfig.from_pretrained(source.name, revision=source.revision, trust_remote_code=trusted)
    described._attn_implementation = None  # transformers' choice: the folder's own may be code on the hub
    own_bits = holds_4bit(config, described, four_bit=four_bit)
    _for_task(described, task)
    skeleton = _skeleton(config, described, pad)
    check_weights(config, source, skeleton)
    if four_bit and not own_bits:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=head_names(skeleton),
        )
    model: Any
    model, report = AutoModelForSequenceClassification.from_pretrained(
        source.name,
        config=described,
        revision=source.revision,
        trust_remote_code=trusted,
        dtype=dtype,
        device_map={"": device},
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # a checkpoint with a head of its own: each trial makes a new one
        **options,
    )
    if not trusted:
        vars(model.config).pop("auto_map", None)  # so that a copy names no code either
    check_filled(config, report, skeleton, heads=[] if trained_head else head_names(skeleton))
    if not own_bits:
        check_stored(config, source)
    if four_bit:
        _settle_4bit(model, dtype)
    model.requires_grad_(False)
    model.eval()
    check_loaded(config, model, task, dtype=dtype, four_bit=four_bit)
    backbone = getattr(skeleton, skeleton.base_model_prefix)
    return Base(
        model=model,
        source=source.name,
        revision=source.revision,
        parameters=sum(parameter.numel() for parameter in backbone.parameters()),
        four_bit=four_bit,
        dtype=dtype,
        device=device,
        own_bits=own_bits,
    )


def _skeleton(config: ModelConfig, described: Any, pad: int | None) -> Any:
    """The model without weights; its configuration gets the token that pads.

    Raises:
        ModelError: it is not supported.
    """
    own, chosen = own_padding(described), pad
    if chosen is None and not is_padding(own, described):
        chosen = padding_token(described, load_tokenizer(config))
    set_padding(described, chosen if chosen is not None else own if is_padding(own, described) else 0)
    with torch.device("meta"):
        skeleton: Any = AutoModelForSequenceClassification.from_config(
            described, trust_remote_code=config.trust_remote_code
        )
    check_supported(skeleton)
    if chosen is None and hasattr(skeleton, "score"):  # a decoder, which takes its own for a text's end
        chosen = padding_token(described, load_tokenizer(config))
        if chosen is None:
            raise ModelError(f"{called(config)}: its tokenizer has no special token that could pad; give it one")
        set_padding(described, chosen)
    return skeleton


def _dtype(wanted: str, device: torch.device, four_bit: bool) -> torch.dtype:
    """auto: bfloat16 where it is fast. A CPU unpacks 4 bits to fp32 as quickly, so that there is nothing to win."""
    if wanted == "auto":
        fast = device.type != "cpu" or (bf16_is_fast() and not four_bit)
        return torch.bfloat16 if fast else torch.float32
    return torch.float32 if wanted == "float32" else torch.bfloat16


def bf16_is_fast() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 by instructions of its own: three to nine times as fast."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def _for_task(config: Any, task: Task) -> None:
    """Tell the architecture what it classifies."""
    config.problem_type = f"{task.kind.replace('-', '_')}_classification"
    config.id2label = dict(enumerate(task.labels))
    config.label2id = {label: i for i, label in enumerate(task.labels)}
    config.use_cache = False


def _settle_4bit(model: Any, dtype: torch.dtype) -> None:
    """Compute in this precision, whatever a base that comes in 4 bits says; and keep bitsandbytes from repacking
    weights for AVX512-BF16: 0.50.2 goes on with wrong ones after a save."""
    from bitsandbytes.nn.modules import Linear4bit

    for part in model.modules():
        if isinstance(part, Linear4bit):
            part.support_avx512bf16_for_cpu = False
            part.compute_dtype = dtype
