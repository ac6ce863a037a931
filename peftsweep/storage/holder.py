"""Who runs a study, as another process is told."""

from __future__ import annotations

import os
import socket
from datetime import datetime

from peftsweep.errors import StudyBusyError
from peftsweep.masking import masked

HOST = 20  # characters: PostgreSQL keeps 63 of the whole note


def note() -> str:
    return f"process {os.getpid()} on {socket.gethostname()[:HOST]} since {datetime.now():%Y-%m-%d %H:%M}"


def busy(name: str, url: str, holder: str) -> StudyBusyError:
    return StudyBusyError(
        f"study {name!r} in {masked(url)} is being run by {holder or 'another process'}; wait for it to end, or stop it"
    )


def overtaken(name: str, url: str) -> StudyBusyError:
    return StudyBusyError(
        f"study {name!r} in {masked(url)} was run by another process while this one had lost the connection. What was "
        "finished is kept; give the same command again to go on with what there is now"
    )
