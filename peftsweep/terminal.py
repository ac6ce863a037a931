"""Where text leaves for a terminal, a pipe or a file. Nothing else in the program prints; drawings go by
`progress.screen`, which does the same to their text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TextIO

from peftsweep.escaping import harmless, in_json


def say(text: str, stream: TextIO) -> None:
    """Print a line, or several: what a terminal would obey is written out, and so is what the stream has no bytes for.
    A label or a file's name may hold anything."""
    encoding = stream.encoding or "utf-8"
    print(harmless(text).encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def say_json(value: Any, stream: TextIO) -> None:
    """Print a value as JSON."""
    say_lines_of_json([json.dumps(value, indent=2, ensure_ascii=False)], stream)


def say_lines_of_json(lines: Sequence[str], stream: TextIO) -> None:
    """Print what is JSON already. What a terminal would obey, or the stream has no bytes for, stands in it as
    `\\u001b`: a program reads the same."""
    text = in_json("\n".join(lines))
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        text = in_json(text, only_ascii=True)
    print(text, file=stream, flush=True)
