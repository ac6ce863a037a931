"""Programs that tests start, and Debian's packages that bring them."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def program(name: str, package: str) -> str:
    """Where it is; without it the test is `lacking`."""
    return shutil.which(name) or lacking(name, f"apt-get install {package}")


def lacking(what: str, remedy: str) -> NoReturn:
    """The test is skipped for want of what only its user can bring; it fails where nothing may be skipped (.ci/run)."""
    reason = f"needs {what}: {remedy}"
    if os.environ.get("PEFTSWEEP_ALL_TESTS"):
        pytest.fail(reason)
    pytest.skip(reason)
