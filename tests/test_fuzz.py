"""Spoilt inputs of every kind: the program bears them, or says what is wrong in a message of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.kinds import KINDS, made
from tests.fuzz.running import shares, tried

INPUTS, SEED = 2000, 18
SHARES = shares(list(KINDS.values()), INPUTS)
MENDED = ["study-files"]


@pytest.mark.filterwarnings("ignore")  # as the command line does
@pytest.mark.parametrize("name", MENDED)
def test_spoilt_inputs_are_borne_or_told(name: str, tmp_path: Path) -> None:
    (kind,) = made(tmp_path, [name])
    found = (tried(kind, SEED, index, tmp_path / "inputs") for index in range(SHARES[name]))
    failures = [failure for failure in found if failure is not None]
    assert not failures, "\n".join(map(str, failures[:5]))
