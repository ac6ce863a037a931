"""Passwords reach no terminal, log or database."""

from __future__ import annotations

import re

# A password may hold `/`, `?` and `@` that nobody escaped: all up to the last `@` of the word is taken for it.
_IN_ADDRESS = re.compile(r"(://[^/@\s:]*):\S*@")
_IN_QUERY = re.compile(r"([?&]\w*(?:password|passwd|pwd|token)=)[^&\s'\"]+", re.IGNORECASE)


def masked(text: str) -> str:
    """The text with `***` for the passwords of all addresses in it: `postgresql://me:***@host/db`."""
    return _IN_QUERY.sub(r"\1***", _IN_ADDRESS.sub(r"\1:***@", text))
