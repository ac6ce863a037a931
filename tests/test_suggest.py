"""Suggestions for misspelt names; one file makes all of them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from peftsweep.system.suggest import did_you_mean, did_you_mean_file, nearest
from tests.studies import ROOT


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("rnak", "; did you mean rank?"),
        ("alpah", "; did you mean alpha, 'al\\x1bpha'?"),
        ("batch_size", ""),
        ("", ""),
    ],
)
def test_a_hint_has_the_nearest_names_without_control_characters(name: str, hint: str) -> None:
    assert did_you_mean(name, ["alpha", "al\x1bpha", "rank"]) == hint


def test_a_missing_file_s_hint_has_its_neighbours_or_the_missing_folder(tmp_path: Path) -> None:
    for name in ("studies.db", "studies.db-wal"):
        (tmp_path / name).touch()
    missing = tmp_path / "studeis.db"
    assert did_you_mean_file(missing, endings_to_skip=("-wal",)) == "; did you mean studies.db?"
    assert did_you_mean_file(tmp_path / "no" / "x") == f"; the folder {tmp_path / 'no'} is not there"


def test_a_value_that_is_not_text_has_no_nearest_name() -> None:
    assert nearest(5, ["5"]) is None and nearest("5", ["5"]) == "5"


def test_near_names_are_searched_for_in_one_file() -> None:
    importers = {
        file.relative_to(ROOT / "peftsweep").as_posix()
        for file in (ROOT / "peftsweep").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and "difflib" in {alias.name for alias in node.names})
        or (isinstance(node, ast.ImportFrom) and node.module == "difflib")
    }
    assert importers == {"system/suggest.py"}
