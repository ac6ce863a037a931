"""Given damaged input of any kind, does the program work or report the problem in one message?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.kinds import KINDS, made
from tests.fuzz.running import Kind, shares, tried

INPUTS, SEED = 2000, 18
SHARES = shares(list(KINDS.values()), INPUTS)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Kind]]:
    found = {kind.name: kind for kind in made(tmp_path_factory.mktemp("fuzz"), list(KINDS))}
    yield found
    for kind in found.values():
        kind.done()


@pytest.mark.filterwarnings("ignore")  # as the command line does
@pytest.mark.parametrize("name", KINDS)
def test_damaged_inputs_work_or_give_one_error(kinds: dict[str, Kind], name: str, tmp_path: Path) -> None:
    found = (tried(kinds[name], SEED, index, tmp_path) for index in range(SHARES[name]))
    failures = [failure for failure in found if failure is not None]
    assert not failures, "\n".join(map(str, failures[:5]))
