"""Streams that cannot be written: a full disk, a pipe whose reader has left, a closed stream."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from peftsweep.progress import EndedTrial, LiveProgress, PlainProgress
from peftsweep.system.terminal import Closed, Masked, say, say_json

ROOT = Path(__file__).parents[1]


@pytest.fixture(params=["full", "left", "closed", "absent"])
def unwritable(request: pytest.FixtureRequest) -> Iterator[TextIO]:
    if request.param == "absent":
        yield Closed()
    elif request.param == "left":
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "w") as stream:
            yield stream
    else:
        with Path("/dev/full").open("w") as stream:
            if request.param == "closed":
                stream.close()
            yield stream


def test_a_stream_that_cannot_be_written_stops_no_command(unwritable: TextIO) -> None:
    """Closing it while it still has text to write raises nothing either."""
    stream = Masked(unwritable)
    for progress in (PlainProgress(stream), LiveProgress(stream)):  # type: ignore[arg-type]
        with progress:
            progress.note("a note")
            progress.ended(EndedTrial(1, "failed", None, "why", {}, 1.0))
    for _ in range(2):
        say("text", stream)  # type: ignore[arg-type]
        say_json({"a": 1}, stream)  # type: ignore[arg-type]
        print("text", file=stream, flush=True)
    assert stream.lost is not None and stream.lost.errno in (errno.ENOSPC, errno.EPIPE, errno.EBADF)


def by_shell(line: str, folder: Path, **env: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a shell's line in which `peftsweep` is the real program."""
    done = subprocess.run(
        ["bash", "-c", f'peftsweep() {{ "{sys.executable}" -m peftsweep "$@"; }}; set -o pipefail; {line}'],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_command_says_in_one_line_that_its_output_cannot_be_written(tmp_path: Path) -> None:
    for place, why in ((">/dev/full", os.strerror(errno.ENOSPC)), (">&-", "it is closed")):
        assert by_shell(f"peftsweep --version {place}", tmp_path) == (
            1,
            "",
            f"error: stdout cannot be written: {why}\n",
        )
    assert by_shell("(sleep 0.2; peftsweep --version) | true", tmp_path) == (1, "", "")
    assert by_shell("peftsweep --version 2>&- <&-", tmp_path)[::2] == (0, "")
    assert by_shell("peftsweep nothing >&- 2>&- <&-", tmp_path) == (2, "", "")


def test_help_is_shown_in_any_encoding(tmp_path: Path) -> None:
    status, out, err = by_shell("peftsweep retrain --help", tmp_path, PYTHONIOENCODING="ascii")
    assert (status, err) == (0, "") and "mean \\xb1 standard deviation" in " ".join(out.split())


def test_no_file_gets_the_descriptor_of_a_closed_stream(tmp_path: Path) -> None:
    code = (
        "import sys; from peftsweep.system.terminal import open_standard_streams; open_standard_streams(); "
        "sys.exit(open('x', 'w').fileno())"
    )
    done = subprocess.run(["bash", "-c", f'"{sys.executable}" -c "{code}" <&- >&- 2>&-'], cwd=tmp_path)
    assert done.returncode > 2 and (tmp_path / "x").exists()
