"""Does the tokenizer know the words of the texts? If not, they may be in another language, or it is the wrong one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_UNKNOWN = 0.05  # share of the tokens above which to warn


def unknown_token_warning(texts: Sequence[NDArray[np.int64]], tokenizer: Any) -> str | None:
    """A warning if many tokens are unknown, not counting those that the tokenizer puts around texts; else None.

    Args:
        texts: the token ids of a split.
    """
    token = tokenizer.unk_token_id
    if token is None:
        return None
    tokens = np.concatenate([np.empty(0, np.int64), *texts])
    missed = tokens == token
    around = np.isin(tokens, tokenizer.all_special_ids) & ~missed
    share = float(missed.sum() / max(1, (~around).sum()))
    if share <= MAX_UNKNOWN:
        return None
    blank = sum(bool(np.isin(text, tokenizer.all_special_ids).all()) for text in texts)
    nothing = f", and {blank:,} of {len(texts):,} texts have no other" if blank else ""
    return (
        f"{share:.0%} of the tokens are unknown to the base's tokenizer ({tokenizer.unk_token}){nothing}: nothing can "
        "be learned from them. Is it the base for this language, and its own tokenizer?"
    )
