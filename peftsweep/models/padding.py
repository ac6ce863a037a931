"""Which token pads: transformers' decoders look for it to find where a text ends, the RoBERTa family counts from it.

People's configurations name tokens that the base has no embedding for (-1, the size of the vocabulary), or words.
"""

from __future__ import annotations

from typing import Any


def is_padding(token: Any, config: Any) -> bool:
    """Whether the base has an embedding for it."""
    rows = getattr(config.get_text_config(), "vocab_size", None)
    return isinstance(token, int) and token >= 0 and (rows is None or token < rows)


def special_tokens(tokenizer: Any) -> set[int]:
    """Those that the tokenizer makes of no word."""
    added = {token for token, said in tokenizer.added_tokens_decoder.items() if said.special}
    return {*added, *tokenizer.all_special_ids}


def padding_token(config: Any, tokenizer: Any) -> int | None:
    """The base's own if the vocabulary has it, else the tokenizer's, the one at a text's end, or any other special one.
    Words are none: a text may end in one. None where there is nothing to choose."""
    ends = getattr(config.get_text_config(), "eos_token_id", None)
    wanted = [own_padding(config), tokenizer.pad_token_id, *(ends if isinstance(ends, list) else [ends])]
    wanted += [tokenizer.eos_token_id, *sorted(tokenizer.all_special_ids)]
    special = special_tokens(tokenizer)
    return next((token for token in wanted if is_padding(token, config) and token in special), None)


def own_padding(config: Any) -> Any:
    """What the base's configuration says; its text part's where it has several."""
    return getattr(config.get_text_config(), "pad_token_id", None)


def set_padding(config: Any, token: int) -> None:
    config.pad_token_id = config.get_text_config().pad_token_id = token
