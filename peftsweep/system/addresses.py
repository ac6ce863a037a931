"""Which forms does the address of a Ray cluster have, and does anything answer at one?"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping

from peftsweep.errors import WorkerError
from peftsweep.safe_text.quoting import quoted

FORMS = "auto, HOST:PORT or ray://HOST:PORT"
CONNECT = 10.0  # seconds for the cluster's head to accept a connection
HOST_AND_PORT = re.compile(r"(?:ray://)?(\[[0-9A-Fa-f:.]+\]|[\w.-]+):([0-9]{1,5})", re.ASCII)


def is_ray_address(text: object) -> bool:
    return text == "auto" or (isinstance(text, str) and _host_and_port(text) is not None)


def _host_and_port(address: str) -> tuple[str, int] | None:
    found = HOST_AND_PORT.fullmatch(address)
    return (found[1].strip("[]"), int(found[2])) if found and 0 < int(found[2]) < 1 << 16 else None


def resolved(address: str, variables: Mapping[str, str]) -> str:
    """The address that Ray takes: `auto` is RAY_ADDRESS, if that is set; else Ray looks for a cluster of this machine.

    Example:
        >>> resolved("auto", {"RAY_ADDRESS": "10.0.0.1:6379"}), resolved("auto", {}), resolved("h:1", {})
        ('10.0.0.1:6379', 'auto', 'h:1')
    """
    return variables.get("RAY_ADDRESS") or address if address == "auto" else address


def check_answers(address: str) -> None:
    """
    Raises:
        WorkerError: nothing listens at the address. Ray itself would try for minutes.
    """
    taken = resolved(address, os.environ)
    try:
        if (place := _host_and_port(taken)) is not None:
            socket.create_connection(place, CONNECT).close()
    except OSError as error:
        raise WorkerError(f"the Ray cluster at {quoted(taken)} cannot be used: {error}") from error
