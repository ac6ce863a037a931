"""How is a base loaded, frozen and with a new head, or refused with a message in one line?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

from peftsweep.config import ModelConfig
from peftsweep.errors import ExportError, ModelError
from peftsweep.models.base import Base, head_names
from peftsweep.models.checks import (
    check_loaded,
    check_no_adapter,
    check_stored_dtypes,
    check_weights_fit_config,
    is_stored_in_4bit,
)
from peftsweep.models.location import Source, locate, message_prefix
from peftsweep.models.model_errors import NO_TOKENIZER, as_model_errors
from peftsweep.models.padding import configured_padding, is_padding, padding_token, set_padding
from peftsweep.models.quiet import mute_native_output
from peftsweep.models.sizes import check_config, check_weights
from peftsweep.models.supported import check_supported
from peftsweep.task import Task


def load_tokenizer(config: ModelConfig) -> Any:
    """The base's tokenizer.

    Raises:
        ModelError: see `load_base`.
    """
    return _tokenizer(config, _locate(config))


def _locate(config: ModelConfig) -> Source:
    """Raises:
    ModelError: it is not there, or the hub cannot be asked.
    """
    with as_model_errors(config):
        return locate(config)


def saved_tokenizer(folder: Path, *, trust_remote_code: bool) -> Any:
    """The tokenizer that `export` saved in a folder.

    Args:
        trust_remote_code: whether to run code that comes with it.

    Raises:
        ExportError: it cannot be loaded.
    """
    place = ModelConfig(id=str(folder), trust_remote_code=trust_remote_code)
    try:
        return _tokenizer(place, Source(str(folder), None, hub=False))
    except ModelError as error:
        reason = str(error).removeprefix(f"{message_prefix(place)}: ").partition(". ")[0]
        raise ExportError(f"{folder}: its tokenizer {reason}; export it again") from error


def _tokenizer(config: ModelConfig, source: Source) -> Any:
    trusted = config.trust_remote_code
    with as_model_errors(config, source), mute_native_output():
        check_config(config, source)
        tokenizer = AutoTokenizer.from_pretrained(source.name, revision=source.revision, trust_remote_code=trusted)
        # transformers makes up an empty tokenizer if there are no files
        made_up = len(tokenizer) <= len(tokenizer.all_special_ids)
        tokenizer("")  # a corrupt tokenizer loads, but fails or panics when it is used
    if made_up:
        raise ModelError(f"{message_prefix(config)}: {NO_TOKENIZER}")
    if not trusted:
        tokenizer.init_kwargs.pop("auto_map", None)  # so that copies do not refer to code either
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
        four_bit: hold the backbone in NF4 with double quantisation (Dettmers et al., 2023, arXiv:2305.14314), or
            unchanged if its files are already in NF4. The head is not quantised.
        pad: the padding token, if it is known.
        trained_head: keep the head of the base, which was trained for this task (a merged export).

    Raises:
        ModelError: the base is missing, gated or unreachable, has no safetensors weights or no classification head, is
            not supported, or comes with an adapter.
    """
    source = _locate(config)
    with as_model_errors(config, source):
        return _load_frozen(config, source, task, four_bit=four_bit, device=device, pad=pad, trained_head=trained_head)


def _load_frozen(
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
    check_config(config, source)
    check_no_adapter(config, source)
    described = AutoConfig.from_pretrained(source.name, revision=source.revision, trust_remote_code=trusted)
    described._attn_implementation = None  # let transformers choose: the configuration could name code on the hub
    own_bits = is_stored_in_4bit(config, described, four_bit=four_bit)
    _set_task(described, task)
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
        ignore_mismatched_sizes=True,  # the checkpoint may have a head: each trial makes a new one
        **options,
    )
    if not trusted:
        vars(model.config).pop("auto_map", None)  # so that copies do not refer to code either
    check_weights_fit_config(config, report, skeleton, heads=[] if trained_head else head_names(skeleton))
    if not own_bits:
        check_stored_dtypes(config, source)
    if four_bit:
        _fix_4bit_compute(model, dtype)
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
    """The model without weights, after the padding token was set in its configuration.

    Raises:
        ModelError: it is not supported.
    """
    own, chosen = configured_padding(described), pad
    if chosen is None and not is_padding(own, described):
        chosen = padding_token(described, load_tokenizer(config))
    set_padding(described, chosen if chosen is not None else own if is_padding(own, described) else 0)
    with torch.device("meta"):
        skeleton: Any = AutoModelForSequenceClassification.from_config(
            described, trust_remote_code=config.trust_remote_code
        )
    check_supported(skeleton)
    if chosen is None and hasattr(skeleton, "score"):  # a decoder takes this token for the end of a text
        chosen = padding_token(described, load_tokenizer(config))
        if chosen is None:
            raise ModelError(f"{message_prefix(config)}: its tokenizer has no special token to pad with; give it one")
        set_padding(described, chosen)
    return skeleton


def _dtype(name: str, device: torch.device, four_bit: bool) -> torch.dtype:
    """`auto` is bfloat16 where that is fast. With 4 bits a CPU gains nothing: it unpacks them to fp32 as fast."""
    if name == "auto":
        fast = device.type != "cpu" or (bf16_is_fast() and not four_bit)
        return torch.bfloat16 if fast else torch.float32
    return torch.float32 if name == "float32" else torch.bfloat16


def bf16_is_fast() -> bool:
    """Whether this CPU has matrix instructions for bfloat16, which are three to nine times as fast as fp32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _set_task(config: Any, task: Task) -> None:
    """Set the task and its labels in the configuration."""
    config.problem_type = f"{task.kind.replace('-', '_')}_classification"
    config.id2label = dict(enumerate(task.labels))
    config.label2id = {label: i for i, label in enumerate(task.labels)}
    config.use_cache = False


def _fix_4bit_compute(model: Any, dtype: torch.dtype) -> None:
    """Set the compute dtype of 4-bit layers, and stop bitsandbytes from repacking weights for AVX512-BF16: after a
    save, version 0.50.2 continues with wrong weights."""
    from bitsandbytes.nn.modules import Linear4bit

    for part in model.modules():
        if isinstance(part, Linear4bit):
            part.support_avx512bf16_for_cpu = False
            part.compute_dtype = dtype
