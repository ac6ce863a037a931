"""How is text from data, files and databases made harmless for a terminal, for JSON and for Markdown?"""

from __future__ import annotations

import json
import re
import unicodedata
from functools import lru_cache

# Unicode categories: controls, format characters (bidirectional marks, zero widths, tags), surrogates, unassigned and
# private-use characters, line and paragraph separators.
INVISIBLE_CATEGORIES = ("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp")
# Invisible characters of other categories: the grapheme joiner, fillers, variation selectors.
INVISIBLE_OTHERS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# Visible characters of those categories: Arabic, Syriac and Kaithi signs that stand before or around numbers.
VISIBLE_FORMATS = re.compile("[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd]")
JOINER, NON_JOINER = "\u200d", "\u200c"
VARIATION_SELECTORS = "\ufe0e\ufe0f"  # draw as text, draw as emoji
# Letters whose shape depends on joiners between them: Arabic, Syriac, Indic, Mongolian and similar scripts.
JOINING_LETTERS = re.compile("[\u0620-\u08ff\u0900-\u109f\u1780-\u18af\u1a20-\u1aaf\ua800-\uabff\U00010a00-\U00011fff]")
JOINERS = re.compile(f"[{JOINER}{NON_JOINER}\u180b-\u180d\u180f]")
FLAG = "\U0001f3f4"
REGIONS = tuple("".join(chr(0xE0000 + ord(c)) for c in region) + "\U000e007f" for region in ("gbeng", "gbsct", "gbwls"))


def harmless(text: str) -> str:
    """The text for a terminal, with control characters (`\\x1b[2J`) and invisible ones (zero-width spaces) escaped.
    Line ends and tabs stay."""
    return _escape(text, "\n\t")


def in_line(text: str) -> str:
    """The text for one line of a terminal: line ends and tabs are escaped too."""
    return _escape(text)


def in_json(text: str, *, only_ascii: bool = False) -> str:
    """Equivalent JSON in which control and invisible characters are escaped (`\\u001b`).

    Args:
        text: JSON, which has such characters only inside strings, except for line ends.
        only_ascii: escape all non-ASCII characters, for a stream that cannot encode them.
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(
        _as_json(c)
        if (only_ascii and ord(c) > 126) or (c != "\n" and _is_invisible(c) and not _belongs_to_visible(text, at))
        else c
        for at, c in enumerate(text)
    )


def _escape(text: str, stays: str = "") -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _as_python(c) if _is_invisible(c) and c not in stays and not _belongs_to_visible(text, at) else c
        for at, c in enumerate(text)
    )


@lru_cache(maxsize=4096)
def _is_invisible(character: str) -> bool:
    """Whether a terminal interprets the character (as the start of an escape sequence) or draws nothing for it."""
    if unicodedata.category(character) in INVISIBLE_CATEGORIES:
        return VISIBLE_FORMATS.match(character) is None
    return INVISIBLE_OTHERS.match(character) is not None


def _belongs_to_visible(text: str, at: int) -> bool:
    """Whether an invisible character is part of something visible: of an emoji, or of letters whose shape it decides.

    Without it, an emoji becomes several others, and words in Persian or Hindi change. Anywhere else it could make two
    names differ that look the same.
    """
    character, before, after = text[at], text[at - 1 : at] if at else "", text[at + 1 : at + 2]
    if character in VARIATION_SELECTORS:
        return _is_picture(before) or (before in tuple("#*0123456789") and after == "\u20e3")  # a keycap emoji
    if character == JOINER and _is_picture(after):
        return (
            _is_picture(before)
            or "\U0001f3fb" <= before <= "\U0001f3ff"
            or (before == VARIATION_SELECTORS[1] and _belongs_to_visible(text, at - 1))
        )
    if JOINERS.match(character):
        return JOINING_LETTERS.match(before) is not None and JOINING_LETTERS.match(after) is not None
    if "\U000e0061" <= character <= "\U000e007f":
        flag = text.rfind(FLAG, max(0, at - 6), at)
        return flag >= 0 and text.startswith(REGIONS, flag + 1)
    return False


def _is_picture(character: str) -> bool:
    """Whether the character can be an emoji."""
    if not character or character < "\xa9":
        return False
    return character in "‼⁉〰ℹ" or unicodedata.category(character) in ("So", "Sm")


def _as_json(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else json.dumps(character)[1:-1]


def _as_python(character: str) -> str:
    """The escape that Python writes: `\\x1b`, `\\u202e`."""
    return character.encode("unicode_escape").decode()


# Characters with a meaning in Markdown, or in HTML within it, inside a line. To prevent a link it is enough to escape
# the colon of an address, or the dot after www.
_MARKDOWN = re.compile(r"[\\`*_\[\]<>&|~$#:@]|(?<=www)\.", re.IGNORECASE)


def markdown(text: str) -> str:
    """The text for the inside of a Markdown line (heading, table row), where it makes no tag, link, fence or cell."""
    return _MARKDOWN.sub(r"\\\g<0>", in_line(text))


def markdown_code(text: str) -> str:
    """The text as inline code in Markdown, with as many backticks as needed."""
    plain = in_line(text)
    longest = max(map(len, re.findall("`+", plain)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{plain}{space}{fence}"


def python_block(code: str) -> str:
    """Python code for a fenced block of Markdown. Backticks and control characters, which it has only in strings, are
    escaped as Python reads them."""
    return in_json(code).replace("`", "\\x60")
