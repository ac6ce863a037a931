"""The base model of a study: it is located, fetched or converted, and loaded frozen."""

from __future__ import annotations

from peftsweep.models.base import (
    Base,
    BaseInfo,
    default_device,
    head_names,
    is_4bit,
    is_at_revision,
    linear_names,
    longrope_window,
    max_text_tokens,
    nf4_values_and_scales,
    revision_of,
    text_backbone,
)
from peftsweep.models.loading import load_base, load_tokenizer, saved_tokenizer
from peftsweep.models.location import cache_folder, message_prefix
from peftsweep.models.padding import special_tokens
from peftsweep.models.quiet import mute_native_output, silence_libraries
from peftsweep.models.supported import check_supported, unsupported_error, unsupported_if_it_fails

__all__ = [
    "Base",
    "BaseInfo",
    "cache_folder",
    "check_supported",
    "default_device",
    "head_names",
    "is_4bit",
    "is_at_revision",
    "linear_names",
    "load_base",
    "load_tokenizer",
    "longrope_window",
    "max_text_tokens",
    "message_prefix",
    "mute_native_output",
    "nf4_values_and_scales",
    "revision_of",
    "saved_tokenizer",
    "silence_libraries",
    "special_tokens",
    "text_backbone",
    "unsupported_error",
    "unsupported_if_it_fails",
]
