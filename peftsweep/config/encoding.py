"""Which of Python's codecs read files of text."""

from __future__ import annotations

import warnings
from contextlib import suppress


def is_text_encoding(name: str) -> bool:
    """Whether texts can be written and any file be read by it, but for bytes that it does not know.

    Python has codecs of no text (hex, rot13), of names of hosts alone (idna, punycode), of source code (unicode_escape)
    and one that refuses everything (undefined).
    """
    try:
        ("text, " * 20).encode(name)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for raw in (b"text", bytes(range(256))):
                with suppress(UnicodeDecodeError):
                    raw.decode(name)
    except (LookupError, ValueError, Warning):
        return False
    return True
