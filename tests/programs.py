"""Programs that tests start, and Debian's packages that bring them."""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str, package: str) -> str:
    """Where it is. Without it the test is skipped, or fails where the environment says that the package is there."""
    found = shutil.which(name)
    if found is None:
        reason = f"needs {name}: apt-get install {package}"
        if package in os.environ.get("PEFTSWEEP_TESTS_HAVE", "").split():
            pytest.fail(reason)
        pytest.skip(reason)
    return found
