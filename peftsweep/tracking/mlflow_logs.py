"""What MLflow and the libraries below it log.

None of it reaches the terminal: what went wrong is told in a line of ours, and tracebacks would tear the live table.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

NAMES = ("mlflow", "alembic", "sqlalchemy", "urllib3")
NOTHING = logging.CRITICAL + 1

_lock = threading.Lock()
_before: dict[str, int] = {}
_inside = 0


@contextmanager
def hushed() -> Iterator[None]:
    """Several threads may be in here at once: the last that leaves lets the libraries log again."""
    global _inside
    with _lock:
        _inside += 1
    silence()
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                for name, level in _before.items():
                    logging.getLogger(name).setLevel(level)
                _before.clear()


def silence() -> None:
    """Once more after MLflow was imported, for it sets its level then. Without effect outside of `hushed`."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
    with _lock:
        for name in NAMES if _inside else ():
            logger = logging.getLogger(name)
            if logger.level != NOTHING:
                _before[name] = logger.level
                logger.setLevel(NOTHING)
