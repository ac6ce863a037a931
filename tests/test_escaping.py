"""Is foreign text harmless wherever it is shown?"""

from __future__ import annotations

import io
import json
import string
import unicodedata
from collections.abc import Callable
from typing import Any, TextIO

import pytest
import yaml
from markdown_it import MarkdownIt

from peftsweep.export.manifest import Manifest
from peftsweep.export.model_card import Origin, card
from peftsweep.progress import (
    EndedTrial,
    LiveProgress,
    PlainProgress,
    bar,
    best_table,
    prediction,
    retrained_table,
    status_table,
)
from peftsweep.progress.screen import Screen
from peftsweep.safe_text.escaping import harmless, in_json, in_line, markdown, markdown_code, python_block
from peftsweep.storage import Retrained
from peftsweep.study.best_rows import Best
from peftsweep.system.names import refusal
from peftsweep.system.terminal import say, say_json
from tests.test_progress import OPENED, Terminal

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\x7f\x00\u202egpj\u2066 [red]\u2028x\ud800"
WRITTEN_OUT = r"\x1b]0;owned\x07\x1b[2J\r\x9b31m\x7f\x00\u202egpj\u2066 [red]\u2028x\ud800"
ORDINARY = "Straße, naïve, 東京, العربية, 👩‍🔬, e\u0301, a\xa0b"
SEEN = {*map(chr, range(0x600, 0x606)), *"\u06dd\u070f\u0890\u0891\u08e2"}  # signs that enclose Arabic numbers
PLANES = [*range(0x3200), *range(0xD7F0, 0xE010), *range(0xFDF0, 0x10010), *range(0xDFFF0, 0xE0200), 0x10FFFD, 0x10FFFF]
CATEGORIES = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")
EVERY = {c for c in map(chr, PLANES) if unicodedata.category(c) in CATEGORIES} - SEEN
FILLERS = {*"\u034f\u115f\u1160\u3164\uffa0", *map(chr, range(0xFE00, 0xFE10)), *map(chr, range(0xE0100, 0xE01F0))}
ROW: dict[str, Any] = {"scores": {"macro_f1": 0.5, "micro_f1": 0.5, "accuracy": 0.5, "loss": 1.0}, "step": 1}
ROW |= {"study": HOSTILE, "method": HOSTILE, "model": HOSTILE, "data": HOSTILE, "adapter": HOSTILE, "trial": 1}
ROW |= {"validation_fingerprint": "0123", "overall": True, "params": {"scheduler": HOSTILE}, "sampled": ["scheduler"]}
ROW |= {"labels": [HOSTILE, "b"], "fingerprint": "89ab", "mlflow_run_id": None, "test": None}
COUNTS = dict.fromkeys(("complete", "pruned", "failed", "running", "stopped", "waiting"), 1)
WORKER = {"number": 0, "node": HOSTILE, "device": HOSTILE, "slots": 1, "rate": 0.5, "trials": [], "since": "2026-01-31"}
STATUS = COUNTS | {"study": HOSTILE, "objective": "macro_f1", "best": 0.5, "seconds": 1.0, "retrain": None}
STATUS |= {"state": "running", "process": HOSTILE, "heartbeat": "2026-01-31", "reason": HOSTILE, "workers": [WORKER]}
STATUS |= {"done": 1, "total": 9, "resume": HOSTILE}
SEEDS: dict[str, Any] = {
    "trial": 1,
    "objective": "macro_f1",
    "picked": 0.5,
    "seeds": 0,
    "shared": 0,
    "failed": 0,
    "behind": None,
}
SEEDS |= {"params": {"scheduler": HOSTILE}, "sampled": ["scheduler"], "test": None, "figures": {}}


def test_exactly_the_characters_that_a_terminal_obeys_are_escaped() -> None:
    text = "".join(sorted(EVERY | FILLERS))
    assert (EVERY | FILLERS).intersection(harmless(text)) == {"\n", "\t"} and in_line(text).isascii()
    assert in_line(HOSTILE) == harmless(HOSTILE) == WRITTEN_OUT and in_line("a\nb") == r"a\nb"
    assert harmless(ORDINARY) == in_line(ORDINARY) == in_json(ORDINARY) == ORDINARY


DRAWN = "👩‍🔬 👨‍👩‍👧‍👦 ❤️‍🔥 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🏳️‍🌈 1️⃣ 👩🏽‍🚀 🙂‍↔️ ☺︎ ©️ ‼️ 🇩🇪 می‌خواهم क्‍ष ශ්‍රී 한국어 १२"
HIDING = [
    *(
        "a\u200bb",
        "a\u200db",
        "soft\xadhyphen",
        "\ufeffa",
        "a\ufe0f",
        "a\u2060b",
        "1\ufe0f",
        "😀\ufe0f\ufe0f",
        "葛\U000e0100",
    ),
    *(
        "👩\u200d",
        "\u200d👩",
        "a\u200c b",
        "م\u200cx",
        "م\u200c\u200cم",
        "🏴\U000e0061\U000e007f",
        "a\U000e0041",
        "ab\u200f",
        "\u3164",
    ),
]


def test_invisible_characters_stay_only_within_a_visible_one() -> None:
    assert harmless(DRAWN) == in_line(DRAWN) == in_json(DRAWN) == DRAWN
    for text in HIDING:
        written = in_line(text)
        assert written != text and written == harmless(text) and "\\" in written
        assert json.loads(in_json(json.dumps(text, ensure_ascii=False))) == text
        assert in_json(json.dumps(text, ensure_ascii=False)) != json.dumps(text, ensure_ascii=False)
        assert refusal(text) == "has characters in it that cannot be printed"
    assert refusal("👩‍🔬 می‌خواهم") is None


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_escaped_json_has_the_same_value_and_no_terminal_commands(encoding: str) -> None:
    every = "".join(sorted(EVERY, reverse=True))  # so that no two surrogates form a pair
    value = {HOSTILE: [ORDINARY, every, {"€ 😀": 1.5}]}
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    say_json(value, stream)
    stream.seek(0)
    text = stream.read()
    assert json.loads(text) == value and EVERY.intersection(text.replace(ORDINARY, "")) == {"\n"}
    assert (ORDINARY in text) == (encoding == "utf-8")


def test_characters_that_a_stream_cannot_encode_are_escaped() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
    say("2 of 3 · é", stream)
    stream.seek(0)
    assert stream.read() == "2 of 3 \\xb7 \\xe9\n"


def lines(stream: TextIO, kind: type[LiveProgress | PlainProgress]) -> None:
    with kind(stream) as progress:
        progress.note(f"a note\n{HOSTILE}")
        progress.warn(HOSTILE)
        progress.opened(OPENED)
        progress.ended(EndedTrial(1, "failed", None, HOSTILE, {"scheduler": HOSTILE}, 1.0))


def drawn(stream: TextIO) -> None:
    with bar(stream, HOSTILE, 2) as done:
        done(1)


SHOWN: dict[str, Callable[[TextIO], None]] = {
    "say": lambda stream: say(HOSTILE, stream),
    "prediction": lambda stream: say(prediction([HOSTILE], {HOSTILE: 0.5}), stream),
    "live": lambda stream: lines(stream, LiveProgress),
    "plain": lambda stream: lines(stream, PlainProgress),
    "best": lambda stream: best_table(
        [Best(**ROW), Best(**ROW | {"validation_fingerprint": "4567", "labels": ["a", HOSTILE]})], stream
    ),
    "status": lambda stream: status_table([STATUS], stream),
    "retrained": lambda stream: retrained_table([Retrained.model_construct(**SEEDS)], stream),
    "screen": lambda stream: Screen(stream).print(HOSTILE),
    "bar": drawn,
}


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
@pytest.mark.parametrize("shown", SHOWN)
def test_no_foreign_text_commands_a_terminal(
    shown: str, stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TERM": "xterm", "COLUMNS": "400", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    to = stream()
    SHOWN[shown](to)
    text = to.getvalue()
    if (shown, stream) != ("bar", io.StringIO):  # a bar is only shown in a terminal
        assert "[red]" in text and r"\x1b[2J" in text and r"\u202e" in text
    assert not any(part in text for part in ("\x1b]", "\x1b[2J", "\x07", "\x9b", "\x7f", "\0", "\u202e", "\u2028"))
    if stream is io.StringIO:
        assert EVERY.intersection(text) <= {"\n"}


# Markdown -----------------------------------------------------------------------------------------------------------

MARKED = [
    "<script>alert(1)</script>",
    "<!-- x",
    "# heading",
    "a | b",
    "```python",
    "`",
    "``",
    "\\",
    "a\\`",
    "&lt;",
    "&#60;",
]
MARKED += [
    "[x](javascript:alert(1))",
    "![x](http://host/x)",
    "<http://host>",
    "_a_",
    "**b**",
    "~~c~~",
    "x\n# heading\n---",
]
MARKED += [
    "```\n\n<b>",
    "~~~",
    "https://host/x",
    "www.host.org",
    "$x$",
    string.punctuation,
    '"]; import os #',
    "'",
    HOSTILE[:-1],
]


def rendered(text: str) -> list[Any]:
    """The tokens of a text, both blocks and inline ones. HTML is allowed, as in cards on the hub."""
    blocks = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)
    return [token for block in blocks for token in (block, *(block.children or ()))]


@pytest.mark.parametrize("text", [*MARKED, ORDINARY])
def test_text_in_markdown_stays_text(text: str) -> None:
    for made in (markdown(text), markdown_code(text)):
        tokens = rendered(f"# of {made}, 1\n\nLabels: {made}, {made}.\n")
        kinds = {token.type for token in tokens} - {
            "heading_open",
            "heading_close",
            "paragraph_open",
            "paragraph_close",
        }
        assert kinds <= {"inline", "text", "code_inline", "text_special"}
        shown = "".join(token.content for token in tokens if token.type != "inline")
        assert shown == f"of {in_line(text)}, 1Labels: {in_line(text)}, {in_line(text)}."
    assert (
        len([token for token in rendered(f"| {markdown(text)} | 1 |\n| --- | --- |\n") if token.type == "th_open"]) == 2
    )


def test_python_in_a_fence_has_the_same_value_and_does_not_end_the_fence() -> None:
    names: dict[str, Any] = {}
    code = python_block(f"labels = {json.dumps(MARKED, ensure_ascii=False)}")
    exec(code, names)
    assert names["labels"] == MARKED and "`" not in code and EVERY.isdisjoint(code)


def test_a_card_with_any_labels_and_names_has_the_same_parts_and_correct_code() -> None:
    def made(labels: list[str], study: str, place: str) -> str:
        model = {"id": place, "revision": None, "dtype": "auto", "trust_remote_code": False}
        whole: dict[str, Any] = {
            "version": "0",
            "study": study,
            "trial": 0,
            "method": "lora",
            "model": model,
            "text": "x",
        }
        whole |= {"base": place, "kind": "single-label", "labels": labels, "thresholds": None, "max_length": 8}
        whole |= {"fingerprint": place, "scores": {place: 0.5}, "merged": False, "files": {}}
        params = {"target_modules": labels}
        origin = Origin(place, place == "owner/name", 0, ["score"])
        return card(Manifest.model_validate(whole), origin, folder="my out", params=params, sampled=["target_modules"])

    def parts(text: str) -> list[str]:
        body = text.removeprefix("---\n").partition("\n---\n")[2]
        return [token.type for token in rendered(body) if token.block]

    for text in MARKED:
        text = made([*MARKED], text, text)
        assert parts(text) == parts(made(["a", "b"], "study", "place")) and EVERY.intersection(text) == {"\n"}
        assert yaml.safe_load(text.split("---\n")[1])["tags"] == ["peftsweep", "lora"]
        using = [token.content for token in rendered(text) if token.type == "fence"][-1]
        names: dict[str, Any] = {}
        exec(using.splitlines()[0], names)
        assert names["labels"] == MARKED
