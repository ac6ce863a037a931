"""Text from data, files and databases, made harmless where it is shown: on a terminal, in JSON, in Markdown."""

from __future__ import annotations

import json
import re
import unicodedata

# Marks that turn the direction of writing: what follows them on the line is not what it seems to be.
TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
OBEYED = ("Cc", "Cs", "Zl", "Zp")  # controls, halves of surrogate pairs, ends of lines and paragraphs


def obeyed(character: str) -> bool:
    """Whether a terminal obeys the character rather than prints it, such as what begins an escape sequence."""
    return unicodedata.category(character) in OBEYED or character in TURNING


def harmless(text: str) -> str:
    """The text for a terminal: `\\x1b[2J` is written out, not obeyed. Lines and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_written_out(c) if obeyed(c) and c not in "\n\t" else c for c in text)


def in_line(text: str) -> str:
    """The text for one line of a terminal: its own lines and tabs are written out, too."""
    return "".join(_written_out(c) if obeyed(c) else c for c in text)


def in_json(text: str, *, only_ascii: bool = False) -> str:
    """JSON that says the same to a program, and has nothing in it that a terminal obeys: `\\u001b` stands for it.

    Args:
        text: JSON; characters of that kind are in its strings alone, apart from the ends of its lines.
        only_ascii: for a stream that has no bytes for other characters.
    """
    return "".join(_as_json(c) if (obeyed(c) and c != "\n") or (only_ascii and ord(c) > 126) else c for c in text)


def _as_json(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else json.dumps(character)[1:-1]


def _written_out(character: str) -> str:
    """As Python writes it: `\\x1b`, `\\u202e`."""
    return character.encode("unicode_escape").decode()


# What means something to Markdown, or to the HTML that may stand in it, in the midst of a line. Of an address the colon
# is enough, and of one that begins with www. the dot: neither becomes a link then.
_MARKDOWN = re.compile(r"[\\`*_\[\]<>&|~$#:@]|(?<=www)\.", re.IGNORECASE)


def markdown(text: str) -> str:
    """The text in the midst of a line of Markdown, such as a heading's or a table's: no tag, link, fence or cell comes
    of it."""
    return _MARKDOWN.sub(r"\\\g<0>", in_line(text))


def markdown_code(text: str) -> str:
    """The text as code in the midst of a line of Markdown, in as many backticks as it takes."""
    plain = in_line(text)
    longest = max(map(len, re.findall("`+", plain)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{plain}{space}{fence}"


def python_block(code: str) -> str:
    """Python for a fenced block of Markdown. Backticks, and what a terminal obeys, stand in its strings alone; they are
    written there as Python reads them."""
    return in_json(code).replace("`", "\\x60")
