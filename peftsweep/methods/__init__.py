"""The parameter-efficient methods, one file each, by the name that a study file gives them."""

from __future__ import annotations

from peftsweep.methods.ia3 import IA3
from peftsweep.methods.lora import Lora, QLora
from peftsweep.methods.method import Method
from peftsweep.methods.stock import attached, merged

METHODS: dict[str, type[Method]] = {method.name: method for method in (Lora, QLora, IA3)}

__all__ = ["METHODS", "Method", "attached", "merged"]
