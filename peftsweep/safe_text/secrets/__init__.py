"""How are secrets kept from terminals, logs, databases and files? `***` replaces them.

A secret in a text is found in one of two ways:

- **Known values** (`known_values`), anywhere and in any notation: secrets in the addresses, `name=value` settings and
  options that this process received (see `remember`: the command line, the study file, the storage, the tracker), and
  in the environment.
- **Patterns** (`patterns`), in any text: passwords in addresses (`urls`), values after names that mean a secret
  (`secret_names`), and tokens with a known prefix (`token_prefixes`).

Not found are: a secret that nothing reveals, such as a password in a sentence that this process did not receive; plain
words and small numbers after `password: `, because a label may have that name; parts of a known secret; secrets of
fewer than four characters, or numbers of fewer than six digits, unless a pattern finds them; and, in a text without
known values, the rest of a password after its first `@` and a space. If a password is a common word, `***` also
replaces that word elsewhere.
"""

from __future__ import annotations

import re
from typing import Any

from peftsweep.safe_text.secrets import known_values
from peftsweep.safe_text.secrets.known_values import remember, remember_words
from peftsweep.safe_text.secrets.patterns import carries_secret, find_by_form, mask_encoded
from peftsweep.safe_text.secrets.spans import HIDDEN, Span, hide
from peftsweep.safe_text.secrets.token_prefixes import KEY_BEGINS, KEY_ENDS, KEY_LINE, PRIVATE_KEY

__all__ = [
    "HIDDEN",
    "behind_key",
    "carries_secret",
    "masked",
    "masked_all",
    "opens_a_key",
    "remember",
    "remember_words",
    "without_keys",
]

_NAME = re.compile(r"[a-z]{1,20}(?:_[a-z0-9]{1,12})*")  # too short for a token
_SPACE = re.compile(r"\s")


def masked(text: str) -> str:
    """The text with `***` for the secrets in it: `postgresql://me:***@host/db`."""
    pattern = known_values.pattern()
    found = {} if pattern is None else {match.start(1): match.end(1) for match in pattern.finditer(text)}
    return mask_encoded(
        hide(text, [*found.items(), *(_shorten_to_known(text, span, found) for span in find_by_form(text))])
    )


def _shorten_to_known(text: str, span: Span, found: dict[int, int]) -> Span:
    """The span up to its first space, if a known secret begins at the same position: patterns may match too much."""
    start, end = span
    more = _SPACE.search(text, found[start], end) if start in found else None
    return (start, more.start()) if more else span


def masked_all(value: Any) -> Any:
    """Plain data (lists and mappings) with every text masked. Keys that are plain names stay, even if a password is
    `test`; other keys are masked but stay distinct."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        names = [name if _NAME.fullmatch(str(name)) else masked_all(name) for name in value]
        names = [f"{name} ({n})" if (n := names[:at].count(name) + 1) > 1 else name for at, name in enumerate(names)]
        return dict(zip(names, map(masked_all, value.values()), strict=True))
    return [masked_all(child) for child in value] if isinstance(value, list | tuple) else value


def without_private_keys(text: str) -> str:
    """The text with `***` for each private key. The rest can be shortened, or masked line by line."""
    return PRIVATE_KEY.sub(HIDDEN, text)


def ends_in_private_key(text: str) -> bool:
    """Whether a private key begins in the text and may continue after it."""
    _, begins, rest = text.rpartition("-----BEGIN ")
    key = KEY_BEGINS.match(begins + rest)
    return key is not None and all(map(KEY_LINE.fullmatch, (begins + rest)[key.end() :].split("\n")))


def after_private_key(line: str) -> str | None:
    """The rest of a line after a private key that began earlier; None if the whole line belongs to the key."""
    end = KEY_ENDS.search(line)
    if end is not None:
        return line[end.end() :]
    return None if KEY_LINE.fullmatch(line) else line
