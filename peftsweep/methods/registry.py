"""The methods, by the names that study files give them."""

from __future__ import annotations

from typing import TypeVar

from peftsweep.config import SPECS
from peftsweep.errors import UsageError
from peftsweep.methods.ia3 import IA3
from peftsweep.methods.lora import Lora, QLora
from peftsweep.methods.method import Method
from peftsweep.safe_text.quoting import quoted
from peftsweep.system.suggest import did_you_mean

M = TypeVar("M", bound=Method)

METHODS: dict[str, type[Method]] = {method.name: method for method in (Lora, QLora, IA3)}


def register(method: type[M]) -> type[M]:
    """Add a method of one's own, under the name of its spec, for this process: a class decorator.

    A class that is defined again, as when a cell of a notebook runs again, replaces itself.

    Raises:
        UsageError: another class has this name.
    """
    there = METHODS.get(method.name, method)
    if _origin(there) != _origin(method):
        raise UsageError(
            f"{_origin(method)}: the method {quoted(method.name)} is {_origin(there)} already; give yours a `spec` "
            "with another name"
        )
    SPECS[method.name] = method.spec
    METHODS[method.name] = method
    return method


def _origin(method: type[Method]) -> str:
    return f"{method.__module__}.{method.__qualname__}"


def registered(name: str, whose: str) -> type[Method]:
    """The method that a stored study or an exported folder names.

    Args:
        whose: what names it, for the message.

    Raises:
        UsageError: this process knows no such method.
    """
    if name not in METHODS:
        raise UsageError(
            f"{whose} has the method {quoted(name)}, which is not registered here; registered are "
            f"{', '.join(METHODS)}; if it is a method of your own, import its module first{did_you_mean(name, METHODS)}"
        )
    return METHODS[name]
