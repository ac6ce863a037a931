"""Programs that tests start: where they are, the Debian packages that bring them, ports for servers."""

from __future__ import annotations

import os
import shutil
import socket
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


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens to."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
