"""How are MLflow's loggers silenced? Our own messages report problems, and tracebacks would tear the live table."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

NAMES = ("mlflow", "alembic", "sqlalchemy", "urllib3")
SILENT = logging.CRITICAL + 1

_lock = threading.Lock()
_before: dict[str, int] = {}
_inside = 0


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the loggers. Several threads may be inside; when the last one leaves, the libraries log again."""
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
    """Call this again after importing MLflow, which sets its level then. Has no effect outside of `quiet`."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
    with _lock:
        for name in NAMES if _inside else ():
            logger = logging.getLogger(name)
            if logger.level != SILENT:
                _before[name] = logger.level
                logger.setLevel(SILENT)
