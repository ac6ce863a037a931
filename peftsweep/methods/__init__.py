"""The parameter-efficient methods.

A new one is a file here, a file of hyperparameters in `config/hyperparameters/`, and a line in the registry of each:
CONTRIBUTING.md has the steps. `register` adds one without changing the package.
"""

from __future__ import annotations

from peftsweep.methods.method import Method
from peftsweep.methods.registry import METHODS, register, registered
from peftsweep.methods.stock import attached, merged

__all__ = ["METHODS", "Method", "attached", "merged", "register", "registered"]
