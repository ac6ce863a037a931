"""A new score needs one line in the table of scores, and stored trials may lack it."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest

from peftsweep import best, dashboard
from peftsweep.progress import best_table, retrained_table
from peftsweep.scores import SCORES, Score
from peftsweep.storage import Retrained
from peftsweep.sweep.publishing import compare
from tests.stored import add_study, add_trial, evaluated, retrained, trial_attrs
from tests.test_progress import Terminal

OLD = trial_attrs(0.7)["scores"]  # the scores of a trial that was stored before


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two studies: `old` was stored before the score `kappa` was added, `new` after."""
    url = f"sqlite:///{tmp_path}/studies.db"
    add_trial(add_study(url, "old"), 0.7, evaluations=evaluated(0.7))
    monkeypatch.setitem(SCORES, "kappa", Score("Cohen's kappa"))
    add_trial(add_study(url, "new"), 0.6, scores=OLD | {"macro_f1": 0.6, "kappa": 0.4321})
    return url


def test_best_shows_a_new_score_and_reads_trials_without_it(url: str) -> None:
    found = best(url)
    rows = {row.study: row.as_dict() for row in found}
    assert (rows["old"]["kappa"], rows["new"]["kappa"], rows["old"]["macro_f1"]) == (None, 0.4321, 0.7)
    best_table(found, text := StringIO())
    heading, old, new = text.getvalue().splitlines()[:3]
    assert "Cohen's kappa" in heading and "0.432" in new and "old" in old and "0.700" in old


def test_the_page_shows_a_new_score(url: str, tmp_path: Path) -> None:
    found = compare(storage=url, tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", output=tmp_path / "page.html")
    assert {row["study"]: row["kappa"] for row in found.as_dict()["leaders"]} == {"old": None, "new": 0.4321}
    page = dashboard.page(found.rows.as_dict())
    assert page.count("Cohen&#39;s kappa") == 1 and page.count('data-sort="0.4321">0.432<') == 1


def test_retrain_shows_a_new_score_of_the_configurations_that_have_it(url: str) -> None:
    rows = [retrained(0, 0.7), retrained(1, 0.6, kappa_mean=0.4321, kappa_std=0.01)]
    retrained_table([Retrained.model_validate(row) for row in rows], text := StringIO())
    assert "Cohen's kappa" in text.getvalue() and "0.432 ± 0.010" in text.getvalue()


@pytest.mark.parametrize(("width", "shown", "left"), [("80", 1, "micro-F1, loss"), ("100", 3, ""), ("200", 3, "")])
def test_a_narrow_terminal_leaves_scores_out_rather_than_cut_them_off(
    monkeypatch: pytest.MonkeyPatch, width: str, shown: int, left: str
) -> None:
    for name, value in {"COLUMNS": width, "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    scores = {f"{name}_{part}": 0.01 for name in ("macro_f1", "micro_f1", "loss") for part in ("mean", "std")}
    behind = {"mean": 0.01, "low": -0.065, "high": 0.085, "seeds": 3}
    retrained_table([Retrained.model_validate(retrained(12, 0.7, behind=behind, **scores))], text := Terminal())
    row = text.getvalue().splitlines()[1]
    assert row.count("0.010 ± 0.010") == shown and "0.010 (-0.065 to 0.085)" in row
    assert (f"{left}: in a wider terminal, or with --json" in text.getvalue()) == bool(left)


def test_a_new_score_that_is_no_score_is_refused(url: str) -> None:
    add_trial(add_study(url, "forged"), 0.6, scores=OLD | {"macro_f1": 0.6, "kappa": 7.0})
    said: list[str] = []
    assert {row.study for row in best(url, warn=said.append)} == {"old", "new"}
    assert [line for line in said if "scores.kappa is 7.0, which is no score" in line]
