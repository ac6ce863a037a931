"""Does the name of one of Python's codecs stand for an encoding of text?"""

from __future__ import annotations

import warnings
from contextlib import suppress


def is_text_encoding(name: str) -> bool:
    """Whether the codec encodes plain text, and decodes any bytes or refuses them with a UnicodeDecodeError.

    Python also has codecs that are no encoding of text (hex, rot13), codecs for host names (idna, punycode) and for
    source code (unicode_escape), and one that refuses everything (undefined).
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
