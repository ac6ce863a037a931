"""Text from data, files and databases, made harmless where it is shown: on a terminal, in JSON, in Markdown."""

from __future__ import annotations

import json
import re
import unicodedata
from functools import lru_cache

# Controls, marks of formatting (bidirectional ones, zero widths, tags), halves of surrogate pairs, what is assigned to
# nobody or for private use, ends of lines and paragraphs.
UNSEEN = ("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp")
# Of other categories, and nothing is drawn of them: a joiner of graphemes, fillers, selectors of variants.
FILLERS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
# Of those categories, and drawn: signs of Arabic, Syriac and Kaithi that stand before or around numbers.
SIGNS = re.compile("[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd]")
JOINER, NON_JOINER = "\u200d", "\u200c"
STYLES = "\ufe0e\ufe0f"  # as text, as emoji
# Letters that change their shape by what stands between them: Arabic's, Syriac's, India's, Mongolian and their like.
SHAPED = re.compile("[\u0620-\u08ff\u0900-\u109f\u1780-\u18af\u1a20-\u1aaf\ua800-\uabff\U00010a00-\U00011fff]")
SHAPING = re.compile(f"[{JOINER}{NON_JOINER}\u180b-\u180d\u180f]")
FLAG = "\U0001f3f4"
REGIONS = tuple("".join(chr(0xE0000 + ord(c)) for c in region) + "\U000e007f" for region in ("gbeng", "gbsct", "gbwls"))


def harmless(text: str) -> str:
    """The text for a terminal: `\\x1b[2J` is written out, not obeyed, and so is what nobody would see, as a space of no
    width. Lines and tabs stay."""
    return _seen(text, "\n\t")


def in_line(text: str) -> str:
    """The text for one line of a terminal: its own lines and tabs are written out, too."""
    return _seen(text)


def in_json(text: str, *, only_ascii: bool = False) -> str:
    """JSON that says the same to a program, and has nothing in it that a terminal obeys or does not show: `\\u001b`
    stands for it.

    Args:
        text: JSON; characters of that kind are in its strings alone, apart from the ends of its lines.
        only_ascii: for a stream that has no bytes for other characters.
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(
        _as_json(c) if (only_ascii and ord(c) > 126) or (c != "\n" and _unseen(c) and not _drawn(text, at)) else c
        for at, c in enumerate(text)
    )


def _seen(text: str, stays: str = "") -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _written_out(c) if _unseen(c) and c not in stays and not _drawn(text, at) else c for at, c in enumerate(text)
    )


@lru_cache(maxsize=4096)
def _unseen(character: str) -> bool:
    """Whether a terminal obeys the character, as what begins an escape sequence, or draws nothing of it by itself."""
    if unicodedata.category(character) in UNSEEN:
        return SIGNS.match(character) is None
    return FILLERS.match(character) is not None


def _drawn(text: str, at: int) -> bool:
    """Whether one that is unseen is a part of what is drawn: of an emoji, or between letters whose shape it decides.

    Without it, one emoji is several others, and words of Persian or Hindi are other words. Anywhere else, two names
    that look alike could differ by it.
    """
    character, before, after = text[at], text[at - 1 : at] if at else "", text[at + 1 : at + 2]
    if character in STYLES:
        return _is_picture(before) or (before in tuple("#*0123456789") and after == "\u20e3")  # a key's cap
    if character == JOINER and _is_picture(after):
        return (
            _is_picture(before)
            or "\U0001f3fb" <= before <= "\U0001f3ff"
            or (before == STYLES[1] and _drawn(text, at - 1))
        )
    if SHAPING.match(character):
        return SHAPED.match(before) is not None and SHAPED.match(after) is not None
    if "\U000e0061" <= character <= "\U000e007f":
        flag = text.rfind(FLAG, max(0, at - 6), at)
        return flag >= 0 and text.startswith(REGIONS, flag + 1)
    return False


def _is_picture(character: str) -> bool:
    """Whether there may be an emoji of it."""
    if not character or character < "\xa9":
        return False
    return character in "‼⁉〰ℹ" or unicodedata.category(character) in ("So", "Sm")


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
