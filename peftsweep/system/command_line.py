"""Which command is this process, for people who want to give it again?"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from peftsweep.safe_text.secrets import masked

_words: list[str] = []  # empty in a program that calls peftsweep as a library


@contextmanager
def command(words: Sequence[str]) -> Iterator[None]:
    """Inside, the process is a command with these arguments."""
    _words[:] = ["peftsweep", *words]
    try:
        yield
    finally:
        _words.clear()


def this_command() -> str:
    """`peftsweep run --study demo --set train.epochs=5`, with `***` for secrets; empty if the process is no command."""
    return masked(shlex.join(_words))
