"""Programs that tests start: their paths, their Debian packages, and ports for servers."""

from __future__ import annotations

import os
import shutil
import socket
from typing import NoReturn

import pytest


def program(name: str, package: str) -> str:
    """The program's path; if it is not installed, the test is `lacking`."""
    return shutil.which(name) or lacking(name, f"apt-get install {package}")


def lacking(what: str, remedy: str) -> NoReturn:
    """Skip the test, because it needs something that only the user can install; fail where nothing may be skipped
    (.ci/run)."""
    reason = f"needs {what}: {remedy}"
    if os.environ.get("PEFTSWEEP_ALL_TESTS"):
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
