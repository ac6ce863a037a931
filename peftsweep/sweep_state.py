"""What has become of a study's sweep? The states, in the words that people read."""

from __future__ import annotations

from enum import StrEnum


class SweepState(StrEnum):
    """The state of a sweep; its value is the word for it."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    """It was ended before its last trial."""
    FAILED = "failed"
    """An error ended it."""
    DIED = "died"
    """It is `RUNNING` by its record, and its process is gone. No record has this state."""
