"""Which versions does a cluster have that refuses this process's? Ray tells it in several lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def named_versions() -> Iterator[None]:
    """Says in a line which versions a cluster has, and which this process, if Ray refuses to join them."""
    try:
        yield
    except RuntimeError as error:
        match re.findall(r"\b(?:Ray|Python): \S+", str(error)):
            case theirs_ray, theirs_python, ours_ray, ours_python:
                told = f"it has {theirs_ray} and {theirs_python}, and this process has {ours_ray} and {ours_python}"
                raise RuntimeError(told.replace(":", "")) from error
        raise
