"""Sweeps whose studies are in PostgreSQL: killed, cut off, moved there from SQLite."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from peftsweep.errors import StorageError
from peftsweep.storage import Studies
from tests.postgresql import Server
from tests.studies import ROOT, Home, home
from tests.test_storage import hang_up
from tests.test_sweep import killed_at

GRID: dict[str, Any] = {"space": {"learning_rate": [2e-3, 1e-2]}, "search": {"sampler": "grid", "trials": 2}}


@pytest.fixture(scope="module")
def never(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A sweep in SQLite that nothing ever stopped."""
    place = home(tmp_path_factory.mktemp("never"))
    assert place.run(place.study(**GRID), slots=1).counts == {"complete": 2}
    return place


@pytest.fixture
def here(never: Home, tmp_path: Path) -> Home:
    place = home(tmp_path / "home")
    place.study(**GRID, model={"id": str(never.folder / "base")})
    return place


def storage(server: Server, place: Home) -> str:
    return f"{server.database()}?artifacts={place.folder}/artifacts"


@pytest.mark.parametrize(
    "moment",
    ["peftsweep.engine.checkpoint:save 6", "peftsweep.sweep.artifacts:write 1"],
    ids=["in its second trial", "before tell"],
)
def test_a_killed_sweep_goes_on_in_postgresql_as_in_sqlite(
    never: Home, here: Home, postgresql: Server, moment: str
) -> None:
    url, study = storage(postgresql, here), here.folder / "small.yaml"
    killed_at(here, moment, study, "--storage", url)
    before = Studies(url).load("small").get_trials()
    assert TrialState.RUNNING in {trial.state for trial in before} or len(before) == 1
    ours = here.run(study, slots=1, storage=url).study.trials
    theirs = optuna.load_study(study_name="small", storage=never.storage).trials
    assert [(t.state, t.params, t.values) for t in ours] == [(t.state, t.params, t.values) for t in theirs]
    for old, new in zip(before, ours, strict=False):
        assert old.datetime_start == new.datetime_start
        assert not old.state.is_finished() or old == new  # kept, and not run again
    assert [here.adapter(n).read_bytes() for n in (0, 1)] == [never.adapter(n).read_bytes() for n in (0, 1)]
    assert [run.info.status for run in here.runs()] == ["FINISHED"] * 3


def test_a_sweep_whose_server_goes_away_ends_with_one_message_and_goes_on(here: Home, postgresql: Server) -> None:
    url, study = storage(postgresql, here), here.folder / "small.yaml"
    here.run(study, storage=url, trials=1)
    postgresql.execute("ALTER ROLE sweeper NOLOGIN")
    hang_up(postgresql, url, "%")
    try:
        with pytest.raises(StorageError, match="not permitted to log in"):
            here.run(study, storage=url)
    finally:
        postgresql.execute("ALTER ROLE sweeper LOGIN")
    assert here.run(study, storage=url).counts == {"complete": 2}


def test_a_study_moves_from_sqlite_as_the_documents_say(never: Home, here: Home, postgresql: Server) -> None:
    """With a finished trial and one in the middle, which goes on from its checkpoint."""
    study = here.folder / "small.yaml"
    killed_at(here, "peftsweep.engine.checkpoint:save 6", study)
    before = optuna.load_study(study_name="small", storage=here.storage)
    url = postgresql.database()
    (snippet,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docker" / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    places = {"sqlite:///studies.db": here.storage, "postgresql+psycopg://studies@localhost/studies": url}
    for shown, there in places.items():
        assert shown in snippet
        snippet = snippet.replace(shown, there.replace("postgresql:", "postgresql+psycopg:"))
    assert '"topics"' in snippet
    subprocess.run([sys.executable, "-c", snippet.replace('"topics"', '"small"')], check=True, timeout=120)
    moved = Studies(url).load("small")
    assert moved.user_attrs == before.user_attrs
    assert [t.state for t in moved.trials] == [TrialState.COMPLETE, TrialState.RUNNING]
    for old, new in zip(before.trials, moved.trials, strict=True):
        for name in ("number", "params", "user_attrs", "intermediate_values", "datetime_start", "value"):
            assert getattr(old, name) == getattr(new, name) if name != "value" or old.values else True
    shutil.copytree(here.folder / "artifacts", here.folder / "moved")
    (here.folder / "studies.db").unlink()
    shutil.rmtree(here.folder / "artifacts")
    result = here.run(study, slots=1, storage=f"{url}?artifacts={here.folder}/moved")
    assert result.counts == {"complete": 2} and result.best is not None
    last = "small/trial-0001/adapter/adapter_model.safetensors"
    assert (here.folder / "moved" / last).read_bytes() == never.adapter(1).read_bytes()
    assert [run.info.status for run in here.runs()] == ["FINISHED"] * 3  # the same runs, gone on with
