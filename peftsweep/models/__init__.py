"""The base model of a study: found, fetched or converted, and loaded frozen."""

from __future__ import annotations

from peftsweep.models.base import (
    Base,
    BaseInfo,
    default_device,
    head_names,
    is_4bit,
    is_at,
    linear_names,
    longest_text,
    longrope_window,
    nf4_parts,
    revision_of,
    text_part,
)
from peftsweep.models.loading import load_base, load_tokenizer, saved_tokenizer
from peftsweep.models.location import called
from peftsweep.models.padding import special_tokens
from peftsweep.models.quiet import mute, quiet
from peftsweep.models.supported import check_supported, refusing, unsupported

__all__ = [
    "Base",
    "BaseInfo",
    "called",
    "check_supported",
    "default_device",
    "head_names",
    "is_4bit",
    "is_at",
    "linear_names",
    "load_base",
    "load_tokenizer",
    "longest_text",
    "longrope_window",
    "mute",
    "nf4_parts",
    "quiet",
    "refusing",
    "revision_of",
    "saved_tokenizer",
    "special_tokens",
    "text_part",
    "unsupported",
]
