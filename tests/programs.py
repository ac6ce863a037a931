"""Programs that tests start, and Debian's packages that bring them."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def program(name: str, package: str) -> str:
    """Where it is; without it the test is `lacking`."""
    return shutil.which(name) or lacking(name, package)


def lacking(what: str, package: str) -> NoReturn:
    """The test is skipped for want of a package; it fails where nothing may be skipped."""
    say = pytest.fail if os.environ.get("PEFTSWEEP_ALL_TESTS") else pytest.skip
    say(f"needs {what}: apt-get install {package}")
