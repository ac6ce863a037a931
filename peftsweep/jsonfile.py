"""JSON that lies in a file or comes from a server, and may be anything by now."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

MOST = 1 << 26  # bytes: a tokenizer has some tens of millions


def read(file: Path) -> Any:
    """What a file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no plain file (a pipe would be waited for), or has no JSON.
    """
    state = file.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("no plain file")
    if state.st_size > MOST:
        raise ValueError(f"more than {MOST:,} bytes")
    return parsed(file.read_bytes())


def parsed(text: str | bytes) -> Any:
    """Raises:
    ValueError: it is no JSON, or nested more deeply than Python reads.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
