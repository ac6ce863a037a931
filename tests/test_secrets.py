"""No secret leaks through a message, a stream, a traceback, a study or a command."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from peftsweep import cli
from peftsweep.config import load
from peftsweep.errors import StorageError, StudyFileError
from peftsweep.progress import EndedTrial, LiveProgress, PlainProgress
from peftsweep.safe_text.quoting import quoted
from peftsweep.safe_text.secrets import known_values, masked, remember
from peftsweep.storage import Studies
from peftsweep.system.terminal import masked_streams, say_json, say_lines_of_json

SECRET = "s3/cr et@#?:%&9"  # nothing in its form says that it is a secret, only its place in an address


@pytest.fixture(autouse=True)
def no_known_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_values, "_given", set())


@pytest.fixture(autouse=True)
def restored_process() -> Iterator[None]:
    """Undo what a command does to its process for good: it turns warnings and logging off."""
    before = dict(os.environ)
    with warnings.catch_warnings():
        yield
    logging.disable(logging.NOTSET)
    os.environ.clear()
    os.environ.update(before)


def test_messages_are_masked_before_they_are_cut() -> None:
    long = f"postgresql://me:{'p' * 300}@host/db"
    assert quoted(long) == "'postgresql://me:***@host/db'"
    assert quoted([long]) == "['postgresql://me:***@host/db']"
    assert str(StorageError(f"{'x' * 580} {long} {'x' * 5000}")).count("p") < 3


KEY = "\n".join(
    ["-----BEGIN RSA PRIVATE KEY-----", *["MIIEow/IBAAKCAQEA+x5"] * 40, "ab3=", "-----END RSA PRIVATE KEY-----"]
)


@pytest.mark.parametrize("key", [KEY, KEY.partition("-----END")[0].rstrip(), KEY.replace("RSA ", "")])
def test_a_private_key_is_hidden_in_a_text_of_many_lines(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert masked(f"x {key}\ny z") == "x ***\ny z" and masked(repr(f"{key}\ny z")).endswith(r"***\ny z'")
    assert str(StorageError(f"x {key}\ny z")) == "x ***\ny z"
    assert "MII" not in quoted(f"{key * 30}", 20_000) and "MII" not in masked(repr(key))
    with masked_streams():
        for line in ["x", *key.splitlines(), "y z", "-----BEGIN PRIVATE KEY----- opens a key.", "More."]:
            print(line, flush=True)
    assert capsys.readouterr().out == "x\n***\ny z\n*** opens a key.\nMore.\n"


def test_a_long_error_is_shortened() -> None:
    error = StorageError("\n".join([f"data.train: {'x' * 1_900_000} is not there; name another", *["more"] * 9000]))
    first, *_, last = str(error).splitlines()
    assert first.startswith("data.train: xxx") and first.endswith("xxx is not there; name another")
    assert "(1,899,039 characters more)" in first and last == "… (8,882 lines more)"
    assert len(first) == 1000


@pytest.mark.parametrize("key", ["model.id", "model.revision", "data.train", "data.test", "data.text"])
@pytest.mark.parametrize("place", ["https://me:PW@h/x", "https:/me:PW@h/x", "hub://TOKEN@h", "x/?api_key=PW"])
def test_a_study_with_a_secret_in_it_is_refused(key: str, place: str) -> None:
    settings = {"data.train": "train.csv", "data.validation": "dev.csv"} | {key: place}
    with pytest.raises(StudyFileError, match=rf"--set {key}: '.*\*\*\*.*' contains a password or a token") as raised:
        load("demo", settings)
    assert "PW" not in str(raised.value) and "TOKEN" not in str(raised.value).replace("HF_TOKEN", "")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_everything_written_to_the_commands_streams_is_masked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remember(f"http://me:{SECRET}@host")
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)

    def fail() -> None:
        raise RuntimeError(SECRET)

    with masked_streams():
        logging.StreamHandler().emit(logging.makeLogRecord({"msg": f"logged {SECRET}"}))
        print("printed", SECRET, file=sys.stderr)
        print("said password:", "PW", file=sys.stderr)
        sys.stdout.writelines([f"written {SECRET}\n"])
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    out, err = capsys.readouterr()
    assert out == "written ***\n" and SECRET not in err
    assert all(f"{how} ***\n" in err for how in ("logged", "printed", "said password:", "RuntimeError:"))


def test_progress_is_masked() -> None:
    remember(f"http://me:{SECRET}@host")
    for kind in (PlainProgress, LiveProgress):
        progress = kind(stream := io.StringIO())
        progress.note(f"a note {SECRET}")
        progress.warn(SECRET)
        progress.ended(EndedTrial(1, "failed", None, SECRET, {}, 1.0))
        assert SECRET not in stream.getvalue() and stream.getvalue().count("***") == 3


def test_a_traceback_is_masked_with_causes_and_notes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*given: object, **options: object) -> None:
        try:
            raise ValueError(f"cause {SECRET}")
        except ValueError as cause:
            error = RuntimeError(f"says {SECRET}")
            error.add_note(f"note {SECRET}")
            raise error from cause

    monkeypatch.setattr(typer.Typer, "__call__", fail)
    command(monkeypatch, "best", "--storage", f"postgresql://me:{SECRET}@h/d", "--debug", status=1)
    command(monkeypatch, "best", status=1)
    text = capsys.readouterr().err
    assert SECRET not in text
    assert [line for line in text.splitlines() if "***" in line] == [
        "ValueError: cause ***",
        "RuntimeError: says ***",
        "note ***",
        "error: RuntimeError: says *** (this should not happen: run it again with --debug to see where)",
    ]


def command(monkeypatch: pytest.MonkeyPatch, *words: str, status: int) -> None:
    """Run the command in this process."""
    monkeypatch.setattr(sys, "argv", ["peftsweep", *words])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code == status


def test_data_that_was_asked_for_is_not_masked(capsys: pytest.CaptureFixture[str]) -> None:
    text = '[{"text": "see http://me:PW@host/?token=PW, me@x.org"}]'
    with masked_streams():
        say_lines_of_json([text], sys.stdout)
        say_json(json.loads(text), sys.stdout)
    as_it_is, _, hidden = capsys.readouterr().out.partition("\n")
    assert as_it_is == text and "PW" not in hidden and json.loads(hidden)[0].keys() == {"text"}


@pytest.mark.parametrize("storage", [b"sqlite:///studies.db", "sqlite:///\udcff.db", "sqlite:///a\0b.db", 5, None])
def test_a_storage_that_is_not_text_is_refused(storage: object) -> None:
    with pytest.raises(StorageError, match=r"^storage .*: expected a URL, such as sqlite:///studies\.db$"):
        Studies(storage)  # type: ignore[arg-type]


def test_arguments_that_are_not_text_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(monkeypatch, "best", "--storage", "sqlite:///\udcff.db", status=2)
    monkeypatch.setenv("PEFTSWEEP_STORAGE", "sqlite:///\udcff.db")
    command(monkeypatch, "best", status=2)
    line = r"error: b'sqlite:///\xff.db' is not UTF-8; names, addresses and texts must be"
    assert capsys.readouterr().err.splitlines() == [line, line]


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--study", "demo", "--set", "model.id=https://me:PASSWORD@h/x"],
        ["run", "--study", "demo", "--set", "https://me:PASSWORD@h/x"],
        ["run", "--study", "https://me:PASSWORD@h/x.yaml"],
        ["best", "postgresql://me:PASS WORD@h/x"],
        ["status", "--storage", "mysql://me:PASS WORD@h/x"],
        ["compare", "--storage", "postgresql://me@h/x?password=PASS WORD&sslmode=nonsense"],
        ["sync", "--tracking-uri", "http://me:PASS WORD@h/x", "--storage", "http://PASSWORD@h"],
        ["predict", "https://PASSWORD@h/x", "--text", "a"],
        ["ui", "--tracking-uri", "https://me:PASS/WORD@h/x"],
    ],
)
@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_a_command_that_fails_leaves_no_file_and_shows_no_secret(
    words: list[str],
    debug: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["peftsweep", *words, *debug])
    with pytest.raises(SystemExit):
        cli.main()
    out, err = capsys.readouterr()
    assert out == "" and "***" in err and "PASS" not in err and "WORD" not in err
    assert list(tmp_path.iterdir()) == []
