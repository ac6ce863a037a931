"""Text from elsewhere, made harmless where it is shown."""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Callable
from typing import Any, TextIO

import pytest

from peftsweep.escaping import harmless, in_json, in_line
from peftsweep.progress import LiveProgress, PlainProgress, bar, best_table, prediction, retrained_table, status_table
from peftsweep.progress.screen import Screen
from peftsweep.terminal import say, say_json
from tests.test_progress import OPENED, Terminal

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\x7f\x00\u202egpj\u2066 [red]\u2028x\ud800"
WRITTEN_OUT = r"\x1b]0;owned\x07\x1b[2J\r\x9b31m\x7f\x00\u202egpj\u2066 [red]\u2028x\ud800"
ORDINARY = "Straße, naïve, 東京, العربية, 👩‍🔬, e\u0301, a\xa0b"
EVERY = {c for c in map(chr, range(0x3000)) if unicodedata.category(c) in ("Cc", "Zl", "Zp")}  # there are no others
EVERY |= {c for c in map(chr, range(0x3000)) if unicodedata.bidirectional(c) in ("LRE", "RLE", "PDF", "LRO", "RLO")}
EVERY |= {c for c in map(chr, range(0x3000)) if unicodedata.bidirectional(c) in ("LRI", "RLI", "FSI", "PDI")}
ROW: dict[str, Any] = {"macro_f1": 0.5, "macro_f1_tuned": None, "micro_f1": 0.5, "accuracy": 0.5, "loss": 1.0}
ROW |= {"study": HOSTILE, "method": HOSTILE, "model": HOSTILE, "data": HOSTILE, "adapter": HOSTILE, "trial": 1}
ROW |= {"validation_fingerprint": "0123", "overall": True, "params": {"scheduler": HOSTILE}, "sampled": ["scheduler"]}
ROW |= {"retrained": None, "tested": None, "test": None, "objective": "macro_f1", "best": 0.5, "seconds": 1.0}
ROW |= dict.fromkeys(("complete", "pruned", "failed", "running", "stopped", "waiting"), 1) | {
    "tied": [],
    "retrain": None,
}
SEEDS = {"trial": 1, "objective": "macro_f1", "picked": 0.5, "seeds": 0, "shared": 0, "failed": 0, "behind": None}
SEEDS |= {"params": {"scheduler": HOSTILE}, "sampled": ["scheduler"], "test": None}


def test_every_character_that_a_terminal_obeys_is_written_out_and_no_other() -> None:
    text = "".join(EVERY)
    assert EVERY.intersection(harmless(text)) == {"\n", "\t"} and not EVERY.intersection(in_line(text))
    assert in_line(HOSTILE) == harmless(HOSTILE) == WRITTEN_OUT and in_line("a\nb") == r"a\nb"
    assert harmless(ORDINARY) == in_line(ORDINARY) == in_json(ORDINARY) == ORDINARY


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_json_says_the_same_to_a_program_and_nothing_to_a_terminal(encoding: str) -> None:
    value = {HOSTILE: [ORDINARY, "".join(EVERY), {"€ 😀": 1.5}]}
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    say_json(value, stream)
    stream.seek(0)
    text = stream.read()
    assert json.loads(text) == value and EVERY.intersection(text) == {"\n"}
    assert (ORDINARY in text) == (encoding == "utf-8")


def test_what_a_stream_has_no_bytes_for_is_written_out() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
    say("2 of 3 · é", stream)
    stream.seek(0)
    assert stream.read() == "2 of 3 \\xb7 \\xe9\n"


def lines(stream: TextIO, kind: type[LiveProgress | PlainProgress]) -> None:
    with kind(stream) as progress:
        progress.note(f"a note\n{HOSTILE}")
        progress.warn(HOSTILE)
        progress.opened(OPENED)
        progress.ended(1, "failed", None, HOSTILE, {"scheduler": HOSTILE}, 1.0)


def drawn(stream: TextIO) -> None:
    with bar(stream, HOSTILE, 2) as done:
        done(1)


SHOWN: dict[str, Callable[[TextIO], None]] = {
    "say": lambda stream: say(HOSTILE, stream),
    "prediction": lambda stream: say(prediction([HOSTILE], {HOSTILE: 0.5}), stream),
    "live": lambda stream: lines(stream, LiveProgress),
    "plain": lambda stream: lines(stream, PlainProgress),
    "best": lambda stream: best_table([ROW, ROW | {"validation_fingerprint": "4567"}], stream),
    "status": lambda stream: status_table([ROW], stream),
    "retrained": lambda stream: retrained_table([SEEDS], stream),
    "screen": lambda stream: Screen(stream).print(HOSTILE),
    "bar": drawn,
}


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
@pytest.mark.parametrize("shown", SHOWN)
def test_nothing_from_elsewhere_is_obeyed_by_a_terminal(
    shown: str, stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TERM": "xterm", "COLUMNS": "400", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    to = stream()
    SHOWN[shown](to)
    text = to.getvalue()
    if (shown, stream) != ("bar", io.StringIO):  # which shows nothing there
        assert "[red]" in text and r"\x1b[2J" in text and r"\u202e" in text
    assert not any(part in text for part in ("\x1b]", "\x1b[2J", "\x07", "\x9b", "\x7f", "\0", "\u202e", "\u2028"))
    if stream is io.StringIO:
        assert EVERY.intersection(text) <= {"\n"}
