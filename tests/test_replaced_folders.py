"""When a new folder replaces an old one, the old one is never lost, and no other user's folder is taken for it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from peftsweep.system import leftovers
from peftsweep.system.leftovers import OLD, tidy, tidy_below
from peftsweep.system.temporary import TemporaryFolder
from tests.programs import lacking
from tests.test_atomic_files import ELSEWHERE, left, written
from tests.test_atomic_files import dead as dead


def gave_way(place: Path, place_id: str = "00000000") -> Path:
    """The old folder that a process left when it was killed, or lost power, while it replaced `place / "adapter"`. By
    default the process ran on another machine, or on this one before a restart."""
    old = place / f".peftsweep-{place_id}-0badcafe" / OLD / "adapter"
    for folder, text in ((old, "a person's"), (old.parents[1] / "adapter", "new")):
        folder.mkdir(parents=True)
        (folder / "weights").write_text(text)
    return old


@pytest.mark.parametrize("sort", ["before a restart", "no locks"])
def test_the_old_folder_comes_back_at_once_if_nobody_knows_whether_its_process_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sort: str
) -> None:
    gave_way(tmp_path, "00000000" if sort == "before a restart" else leftovers.place_id(tmp_path))
    if sort == "no locks":
        monkeypatch.setattr("fcntl.flock", lambda lock, how: os.read(lock, 1))  # an OSError
    tidy(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "weights").read_text() == "a person's" and len(left(tmp_path)) == 1


def test_the_old_folder_is_never_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "DAY", -1.0)
    old = {gave_way(tmp_path), gave_way(tmp_path, leftovers.place_id(tmp_path))}
    (tmp_path / "adapter").mkdir()  # another process was faster
    tidy(tmp_path / "adapter")
    tidy_below(tmp_path)
    written(tmp_path / "folder", "new")
    assert {folder for folder in old if (folder / "weights").read_text() == "a person's"} == old


def test_a_folder_that_cannot_take_its_place_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process takes its place in the meantime."""

    def meanwhile(old: Path, new: Path, rename: Callable[[Path, Path], Path] = Path.rename) -> None:
        monkeypatch.undo()
        rename(old, new)
        written(tmp_path / "folder", "another's")

    written(tmp_path / "folder", "a person's")
    monkeypatch.setattr(Path, "rename", meanwhile)
    with pytest.raises(OSError):  # noqa: PT011, which one depends on the system
        written(tmp_path / "folder", "new")
    assert {file.read_text() for file in tmp_path.rglob("inside")} == {"another's", "a person's", "new"}


def test_what_gave_way_by_version_0_1_is_not_removed_before_the_new_one_has_stood(
    tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "DAY", -1.0)
    for name in ("adapter", f".adapter.{dead}", f".adapter.{dead}.old"):
        (tmp_path / name).mkdir()
    tidy(tmp_path / "adapter")
    assert len(left(tmp_path)) == 2
    (tmp_path / f".adapter.{dead}").rmdir()  # the new folder is complete now
    tidy(tmp_path / "adapter")
    assert left(tmp_path) == []


# Anybody may write to the system's temporary folder, and name files there as this program does ------------------------


def use(how: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look, a day later, for what dead processes left there."""
    monkeypatch.setattr(leftovers, "DAY", -1.0)
    if how == "temporary":
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        with TemporaryFolder():
            pass
    else:
        tidy(place / "adapter")


def content(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("how", ["temporary", "tidy"])
@pytest.mark.parametrize("place_id", ["00000000", ""])
@pytest.mark.parametrize("links", ["the aside", "what gave way"])
def test_links_are_not_followed(
    tmp_path: Path, how: str, place_id: str, links: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = gave_way(tmp_path / "victim")
    victim = old.parent if links == "what gave way" else old.parents[1]
    shared = tmp_path / "shared"
    link = (
        shared
        / f".peftsweep-{place_id or leftovers.place_id(tmp_path)}-0badcafe"
        / (OLD if victim == old.parent else "")
    )
    link.parent.mkdir(parents=True)
    link.symlink_to(victim)
    before = content(tmp_path)
    use(how, shared, monkeypatch)
    assert content(tmp_path) == before


@pytest.mark.parametrize("how", ["temporary", "tidy"])
def test_only_the_requested_folder_comes_back(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = gave_way(tmp_path, leftovers.place_id(tmp_path))
    (old.parent / "planted").mkdir()
    use(how, tmp_path, monkeypatch)
    assert not (tmp_path / "planted").exists() and (tmp_path / "adapter").exists() == (how == "tidy")


@pytest.mark.parametrize("how", ["temporary", "tidy"])
@pytest.mark.parametrize("part", ["aside", OLD, "adapter", "half", "earlier"])
def test_another_user_s_files_stay(
    tmp_path: Path, how: str, part: str, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        lacking("the right to give a file away", "run as root")
    parts = {"half": tmp_path / ELSEWHERE, "earlier": tmp_path / f".adapter.{dead}.old"}
    if part in parts:
        parts[part].mkdir()
    else:
        old = gave_way(tmp_path)
        parts |= {"aside": old.parents[1], OLD: old.parent, "adapter": old}
    os.chown(parts[part], 12345, -1)
    before = content(tmp_path)
    use(how, tmp_path, monkeypatch)
    assert content(tmp_path) == before
