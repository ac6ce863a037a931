"""What does a command do before its trials start, and after they have ended?"""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """What a person reads while nothing else happens: what takes the time, in the order in which it comes."""

    DATA = "reading the data"
    LIBRARIES = "loading the libraries"
    TEXTS = "tokenising the texts"
    BASE = "loading the base"
    PACK = "building the pack"
    RESULTS = "writing the results"


def stage_line(stage: Stage, what: str = "", study: str = "") -> str:
    """`demo: loading the base: owner/name`

    Args:
        what: is read or loaded; empty if that goes without saying.
        study: its name, if several studies run at once.
    """
    return ": ".join(filter(None, [study, stage, what]))
