"""How do values travel to a worker in another process? Pickled; a method must be importable there."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler

from peftsweep.errors import UsageError
from peftsweep.methods import Method


def dumped(value: object) -> bytes:
    return ForkingPickler.dumps(value).tobytes()


def check_importable(method: type[Method], *, in_script: bool) -> None:
    """
    Args:
        in_script: whether the other process runs the user's script too, and so knows the classes in it.

    Raises:
        UsageError: another process cannot import the method.
    """
    try:
        if method.__module__ == "__main__" and not in_script:
            raise ImportError("it is in the script itself")
        dumped(method)
    except Exception as error:
        raise UsageError(
            f"method {method.name}: another process cannot import {method.__module__}.{method.__qualname__}; "
            "define the class at the top level of a module"
        ) from error
