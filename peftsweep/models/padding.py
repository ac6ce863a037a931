"""Which token pads? Decoders find the end of a text by it, and the RoBERTa family counts positions from it.

Configurations may name tokens that the base has no embedding for (-1, the size of the vocabulary), or tokens of words.
"""

from __future__ import annotations

from typing import Any


def is_padding(token: Any, config: Any) -> bool:
    """Whether the base has an embedding for the token."""
    rows = getattr(config.get_text_config(), "vocab_size", None)
    return isinstance(token, int) and token >= 0 and (rows is None or token < rows)


def special_tokens(tokenizer: Any) -> set[int]:
    """The tokens that no word becomes."""
    added = {token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special}
    return {*added, *tokenizer.all_special_ids}


def padding_token(config: Any, tokenizer: Any) -> int | None:
    """The padding token of the base if it is valid, else that of the tokenizer, the end-of-text token, or any special
    token. A token of a word cannot pad, because a text may end in it. None if there is no candidate."""
    ends = getattr(config.get_text_config(), "eos_token_id", None)
    candidates = [configured_padding(config), tokenizer.pad_token_id, *(ends if isinstance(ends, list) else [ends])]
    candidates += [tokenizer.eos_token_id, *sorted(tokenizer.all_special_ids)]
    special = special_tokens(tokenizer)
    return next((token for token in candidates if is_padding(token, config) and token in special), None)


def configured_padding(config: Any) -> Any:
    """The padding token of the configuration, or of its text part if it has several parts."""
    return getattr(config.get_text_config(), "pad_token_id", None)


def set_padding(config: Any, token: int) -> None:
    config.pad_token_id = config.get_text_config().pad_token_id = token
