"""How old is this process? A person waits for a command from its start, which is before any code of ours runs."""

from __future__ import annotations

import os
import time
from pathlib import Path

from peftsweep.system import plain_files

_imported = time.monotonic()


def process_age() -> float:
    """Seconds since the process began. Where the system does not say that, since this file was imported."""
    try:
        after_name = plain_files.read(Path("/proc/self/stat"), 4096).rpartition(b")")[2]
        began = int(after_name.split()[19]) / os.sysconf("SC_CLK_TCK")  # after the system's start: see man 5 proc
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began
    except (OSError, ValueError, IndexError, AttributeError):
        return time.monotonic() - _imported
