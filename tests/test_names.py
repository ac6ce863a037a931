"""Names of studies, files and folders that come from files, databases and the command line."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest

from peftsweep import sweep
from peftsweep.comparison import compare
from peftsweep.config import load
from peftsweep.errors import PeftsweepError, StorageError, StudyFileError, UsageError
from peftsweep.export import export, predict_file
from peftsweep.progress import Silent
from peftsweep.storage import Studies, TrialRecord, claim, exists
from peftsweep.study import artifacts, best_rows, status_rows
from peftsweep.sweep.projection import Projection
from peftsweep.system.folders import inside
from peftsweep.system.names import PART, file_name, parse_path, refusal, shorten_name, study_refusal
from peftsweep.system.package_paths import packaged
from peftsweep.tracking import MlflowRuns, Tracker, serve
from peftsweep.trial_state import TrialState
from tests.studies import Home, home
from tests.test_export import EARLIER

GOOD = [
    "demo",
    "qlora-llama",
    "my study",
    "..x",
    "a..b",
    "naïve",
    "東京",
    "👩‍🔬",
    "é" * 80,
    "x" * 200,
    "a%2Fb",
    "~",
    "-x",
]
BAD = ["", " ", ".", "..", "a/b", "../x", "/etc", "a\\b", "..\\x", "x\x00y", "x\ny", "\x1b[2J", "\u202egpj", "x\ud800"]
BAD += [" x", "x ", "\u2028", "x" * 201, "é" * 101]
TAKEN = ["comparison.html", "Comparison.HTML", "selection.html", ".hidden", ".comparison.html.12"]


@pytest.mark.parametrize("name", GOOD)
def test_a_name_is_one_part_of_a_path(name: str) -> None:
    assert refusal(name) is None and (study_refusal(name) is None or name == "..x")


@pytest.mark.parametrize("name", [*BAD, *TAKEN])
def test_a_name_that_leads_out_of_the_folder_or_cannot_be_written_is_refused(name: str) -> None:
    assert study_refusal(name) is not None and (refusal(name) is None) == (name in TAKEN)


def test_every_text_gives_a_valid_file_name_and_different_texts_give_different_names() -> None:
    texts = [*GOOD, *BAD, *TAKEN, "é" * 1000, "é" * 1000 + "x", "a" * 999, "a" * 998 + "b"]
    for made in (file_name, lambda text, room=200: shorten_name(text, room)):
        for room in (42, 200):
            names = [made(text, room) for text in texts]
            assert len(set(names)) == len(texts)
            assert all(len(name.encode(errors="surrogatepass")) <= room for name in names)
    assert file_name("qlora-llama") == "qlora-llama" and file_name("a/b") == "a%2Fb"  # as earlier versions made them
    assert all(refusal(file_name(text)) is None for text in texts if text.strip("."))


def test_links_are_followed_to_decide_whether_a_path_lies_inside_a_folder(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "own").mkdir(parents=True)
    outside.mkdir()
    (root / "link").symlink_to(outside)
    (root / "loop").symlink_to("loop")
    (tmp_path / "way").symlink_to(root)  # a link may lead to the root itself
    assert inside(root, root / "own" / "new") == root / "own" / "new"
    assert inside(tmp_path / "way", root / "own") and inside(root, tmp_path / "way" / "own")
    for wrong in (
        root,
        root / "..",
        root / "..",
        root / "link",
        root / "link" / "x",
        root / "own" / ".." / "..",
        outside,
    ):
        with pytest.raises(StorageError, match="leads out of"):
            inside(root, wrong)


def test_removing_a_link_keeps_its_target(tmp_path: Path) -> None:
    """A trial's folder may be a link out of the study's folder, for instance into that of a study that was moved."""
    study, outside = tmp_path / "artifacts" / "small", tmp_path / "outside"
    for name in ("adapter", "checkpoint-1", ".checkpoint-2"):
        (outside / name).mkdir(parents=True)
    study.mkdir(parents=True)
    (study / "trial-0003").symlink_to(outside)
    ended = TrialRecord(number=3, state=TrialState.PRUNED, drawn={}, reported={})
    artifacts.remove_adapters(study, [ended.number])
    artifacts.drop_checkpoints(study / "trial-0003")
    assert sorted(path.name for path in outside.iterdir()) == [".checkpoint-2", "adapter", "checkpoint-1"]
    (study / "trial-0003").unlink()
    outside.rename(study / "trial-0003")
    artifacts.remove_adapters(study, [ended.number])
    artifacts.drop_checkpoints(study / "trial-0003")
    assert not (study / "trial-0003").exists()


# Files and the command line -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", ["..", "...", "comparison.html", " x", "x\x1b[2Jy", "a\nb", "é" * 101, ".hidden"])
def test_a_study_file_whose_name_is_no_valid_study_name_is_refused(tmp_path: Path, stem: str) -> None:
    file = Home(tmp_path).study("small").rename(tmp_path / f"{stem}.yaml")
    with pytest.raises(StudyFileError, match=r"the study's name, .*; rename the file") as error:
        load(file)
    assert repr(stem)[1:5] in str(error.value) and str(error.value).isprintable()


def test_every_python_function_refuses_an_invalid_name(tmp_path: Path) -> None:
    config, storage = load(Home(tmp_path).study("small")), f"sqlite:///{tmp_path}/s.db"
    optuna.create_study(study_name="there", storage=storage)
    entries: list[Callable[[str], Any]] = [
        Studies(storage).create,
        Studies(storage).folder,
        lambda name: best_rows.best(storage, [name]),
        lambda name: status_rows.status(storage, [name]),
        lambda name: sweep.retrain(config.model_copy(update={"name": name}), storage=storage),
        lambda name: sweep.sync(studies=[name], storage=storage),
        lambda name: sweep.compare(studies=[name], storage=storage),
        lambda name: export(name, tmp_path / "out", storage=storage),
    ]
    before = sorted(tmp_path.iterdir())
    for name in (*BAD, *TAKEN):
        with pytest.raises(ValueError, match="name: "):
            type(config).model_validate({**dict(config), "name": name})
        for entry in entries:
            with pytest.raises(UsageError, match=r"study .*: a study's name becomes that of a folder, and this one "):
                entry(name)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("part", ["a" * 300, "é" * 101, "..", "x\x1b[2J", "x\udcff"])
def test_a_storage_with_an_impossible_file_name_gives_one_message(tmp_path: Path, part: str) -> None:
    for url in (f"sqlite:///{tmp_path}/{part}", f"sqlite:///{tmp_path}/{'a' * 300}/x.db"):
        with pytest.raises(StorageError, match=r"^storage") as error:
            exists(url)
        assert len(str(error.value)) < 500 and str(error.value).isprintable()
    with pytest.raises(StorageError, match=r"^storage: artifacts: .* is too long"):
        exists(f"sqlite:///x.db?artifacts={'a' * 300}")


def test_a_path_as_a_person_gives_it(tmp_path: Path) -> None:
    assert parse_path("~/x", "--input", UsageError) == Path.home() / "x"
    assert parse_path("x\udcff", "--input", UsageError) == Path("x\udcff")  # a byte that is not UTF-8
    for wrong in ("a" * 256, "a/" * 2100, "a\0b", "x\ud800", "~nobody-of-this-name/x"):
        with pytest.raises(UsageError, match=r"^--input: '"):
            parse_path(wrong, "--input", UsageError)


@pytest.mark.parametrize("part", ["a" * 300, "a\0b"])
def test_an_impossible_path_gives_one_message_wherever_it_is_given(tmp_path: Path, part: str) -> None:
    storage, longest = f"sqlite:///{tmp_path}/s.db", tmp_path / part
    optuna.create_study(study_name="there", storage=storage)
    mlflow = f"sqlite:///{tmp_path}/{part}"
    (out := tmp_path / "out").mkdir()
    (out / "peftsweep.json").write_text(EARLIER)
    entries: dict[str, Callable[[], Any]] = {
        "-o": lambda: sweep.compare(storage=storage, output=longest),
        "--tracking-uri": lambda: sweep.compare(storage=storage, tracking_uri=mlflow, output=tmp_path / "page.html"),
        "--tracking-uri ": lambda: serve(mlflow),
        "the exported folder": lambda: predict_file(longest, longest, None),
        "--input": lambda: predict_file(out, longest, None),
        "--output": lambda: predict_file(out, out / "x.csv", longest),
    }
    for what, entry in entries.items():
        with pytest.raises(PeftsweepError, match=f"^{what.strip()}: ") as error:
            entry()
        assert len(str(error.value)) < 400


def test_the_longest_names_get_their_locks_and_their_folder(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/{'é' * 98}.db"
    names = ["é" * 80, "é" * 79 + "e", "x" * 200]
    studies = Studies(url)
    for name in names:
        studies.create(name)
        with studies.lease(name):
            assert all(len(os.fsencode(entry.name)) <= PART for entry in tmp_path.iterdir())
            with pytest.raises(StorageError, match="is being run by"), Studies(url).lease(name):
                pass
            (other,) = [each for each in names if each != name][:1]
            with Studies(url).lease(other):
                pass
        studies.folder(name).mkdir(parents=True)
    assert studies.names() == sorted(names)


def test_dots_do_not_lead_out_of_a_package() -> None:
    assert packaged("package://peftsweep/system/names.py", "model.id", UsageError).is_file()
    for place in ("package://peftsweep/../tests/tiny.py", "package://peftsweep/config/../../setup.cfg"):
        with pytest.raises(UsageError, match=r"^model\.id: .*leads out of the package"):
            packaged(place, "model.id", UsageError)


def test_a_trial_s_reports_replace_links_and_do_not_follow_them(tmp_path: Path) -> None:
    outside = tmp_path / "thesis.txt"
    outside.write_text("mine")
    (tmp_path / "study.yaml").symlink_to(outside)
    artifacts._write_text(tmp_path / "study.yaml", "method: lora\n")
    assert outside.read_text() == "mine" and (tmp_path / "study.yaml").read_text() == "method: lora\n"


# Databases ----------------------------------------------------------------------------------------------------------

FORGED = ["../../outside", "..", ".", "/etc", "x/y", "..\\x", "comparison.html", "é" * 150, "\x1b[2J", ".mlflow"]


COPY = """
INSERT INTO study_directions (direction, study_id, objective) SELECT direction, :new, 0 FROM study_directions
    WHERE study_id = 1;
INSERT INTO study_user_attributes (study_id, key, value_json)
    SELECT :new, key, value_json FROM study_user_attributes WHERE study_id = 1;
INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete)
    SELECT number, :new, state, datetime_start, datetime_complete FROM trials WHERE study_id = 1;
INSERT INTO trial_values (trial_id, objective, value, value_type)
    SELECT last_insert_rowid(), objective, value, value_type FROM trial_values WHERE trial_id = 1;
INSERT INTO trial_user_attributes (trial_id, key, value_json)
    SELECT (SELECT max(trial_id) FROM trials), key, value_json FROM trial_user_attributes WHERE trial_id = 1;
"""


def _copy(database: sqlite3.Connection, name: str) -> None:
    """Copy the first study's trial, with everything stored about it, to a study of this name."""
    new = database.execute("INSERT INTO studies (study_name) VALUES (?)", [name]).lastrowid
    for statement in COPY.split(";"):
        database.execute(statement, {"new": new} if ":new" in statement else {})


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A finished study and its copies under forged names, told to MLflow by nobody yet; beside them, somebody's
    folders where such names would lead."""
    place = home(tmp_path_factory.mktemp("deep") / "home")
    assert place.run(place.study(), trials=1, tracking_uri="sqlite:////nowhere/mlflow.db").counts == {"complete": 1}
    with closing(sqlite3.connect(place.folder / "studies.db")) as database:
        for name in FORGED:
            _copy(database, name)
        database.commit()
    for folder in (place.folder.parent / "outside", place.folder / "artifacts" / "x", place.folder):
        for name in ("trial-0000", ".mlflow"):
            (folder / name).mkdir(parents=True)
            (folder / name / "thesis.txt").write_text("mine")
    return place


def kept(place: Home) -> dict[Path, int]:
    """All files but the databases and the study's own."""
    own = {place.folder / "artifacts" / "small", place.folder / "mlartifacts"}
    files = [file for file in place.folder.parent.rglob("*") if file.is_file() and not own.intersection(file.parents)]
    pages = ("comparison.html", "selection.html")
    return {file: file.stat().st_mtime_ns for file in files if ".db" not in file.name and file.name not in pages}


def test_studies_of_forged_names_are_left_out_once_and_stop_no_other(swept: Home) -> None:
    before, said = kept(swept), list[str]()
    commands: dict[str, Callable[[], Any]] = {
        "best": lambda: [row.study for row in best_rows.best(swept.storage, warn=said.append)],
        "status": lambda: [row["study"] for row in status_rows.status(swept.storage, warn=said.append)],
        "compare": lambda: [row.study for row in compare(swept.storage, warn=said.append).leaders],
        "sync": lambda: list(sweep.sync(storage=swept.storage, tracking_uri=swept.tracking_uri, note=said.append)),
        "run": lambda: list(swept.run(swept.folder / "small.yaml", trials=1, progress=Told(said)).counts) and ["small"],
        "export": lambda: [export("small", swept.folder / "out", storage=swept.storage, note=said.append).study],
    }
    for command, call in commands.items():
        said.clear()
        assert call() == ["small"], command
        left_out = [line for line in said if "is left out: its name" in line]
        assert len(left_out) == 1 or (command == "run" and not left_out), command  # which needs no other study
        for line in left_out:
            assert line.isprintable() and f"and {len(FORGED) - 1} more studies with such names" in line
    assert {file: at for file, at in kept(swept).items() if swept.folder / "out" not in file.parents} == before


class Told(Silent):
    """Progress that keeps warnings."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    def warn(self, text: str) -> None:
        self.said.append(text)


def test_the_database_does_not_decide_where_an_adapter_lies(swept: Home) -> None:
    with closing(sqlite3.connect(swept.folder / "studies.db")) as database:
        adapter = json.dumps("../../../etc/trial-0000/adapter")
        database.execute("UPDATE trial_user_attributes SET value_json = ? WHERE key = 'adapter'", (adapter,))
        database.commit()
    (row,) = best_rows.best(swept.storage)
    assert row.adapter == str(swept.adapter(0).parent)


@pytest.mark.parametrize("name", ["own", "own/trial-0001"])
def test_a_link_to_another_study_s_or_trial_s_artifacts_is_not_followed(tmp_path: Path, name: str) -> None:
    """Of another study, or of another trial."""
    (tmp_path / "other").mkdir()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(tmp_path / "other")
    with pytest.raises(StorageError, match=r"a link to .*other: "):
        inside(tmp_path, tmp_path / name)
    assert inside(tmp_path, tmp_path / "other" / "new") == tmp_path / "other" / "new"


def test_a_link_that_leads_out_of_the_artifacts_is_not_followed(tmp_path: Path) -> None:
    place, outside = home(tmp_path / "home", mlflow=False), tmp_path / "outside"
    for folder in (outside, outside / "adapter", outside / "checkpoint-1"):
        folder.mkdir()
        (folder / "thesis.txt").write_text("mine")
    artifacts = place.folder / "artifacts"
    study, tracker = optuna.create_study(), Tracker(MlflowRuns(place.tracking_uri), note=print)
    writers: dict[str, Callable[[], Any]] = {
        "small": lambda: Studies(place.storage).own_folder("small"),
        "small/.mlflow": lambda: Projection(study, tracker, artifacts / "small"),
        "small/trial-0000": lambda: place.run(place.study(), trials=1),
    }
    for link, write in writers.items():
        if "/" in link:
            claim("small", artifacts / "small", "key", Studies(place.storage).place)
        (artifacts / link).parent.mkdir(parents=True, exist_ok=True)
        (artifacts / link).symlink_to(outside)
        with pytest.raises(StorageError, match=r"leads out of .*artifacts.*: nothing is written or removed there"):
            write()
        (artifacts / link).unlink()
        assert len([file for file in outside.rglob("*") if file.is_file()]) == 3 == len(list(outside.iterdir()))
