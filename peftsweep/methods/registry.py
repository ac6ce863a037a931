"""The methods, by the names that study files give them."""

from __future__ import annotations

from typing import TypeVar

from peftsweep.config import SPECS
from peftsweep.methods.ia3 import IA3
from peftsweep.methods.lora import Lora, QLora
from peftsweep.methods.method import Method

M = TypeVar("M", bound=Method)

METHODS: dict[str, type[Method]] = {method.name: method for method in (Lora, QLora, IA3)}


def register(method: type[M]) -> type[M]:
    """Add a method of one's own, under the name of its spec, for this process: a class decorator."""
    SPECS[method.name] = method.spec
    METHODS[method.name] = method
    return method
