"""Secrets reach no terminal, log, database or file: `***` stands in their place.

Two ways lead to a secret in a text.

- **Known ones** (`known`), wherever they stand and however they are written: those of the addresses, `name=value` and
  options that this process was given (`remember`: the command line, the study file, the storage, the tracker), and of
  the environment.
- **By their form** (`forms`), in any text: of addresses (`addresses`), behind names that mean a secret (`words`), and
  tokens by how they begin (`tokens`).

Not recognised: a secret that nothing gives away, such as a password in a sentence that this process was not given, or
mere words and small numbers behind `password: `, where a label may be called so; the parts of a known one; one of fewer
than four characters, or a number of fewer than six digits, but where its form tells; in a text of which nothing is
known, a password behind its first `@` and a space. Too much is hidden where a password is a common word: `***` then
stands for the word, by itself, elsewhere too.
"""

from __future__ import annotations

import re
from typing import Any

from peftsweep.safe_text.secrets import known_values
from peftsweep.safe_text.secrets.known_values import remember, remember_words
from peftsweep.safe_text.secrets.patterns import by_form, carries_secret, encoded
from peftsweep.safe_text.secrets.spans import HIDDEN, Span, hidden
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

_NAME = re.compile(r"[a-z]{1,20}(?:_[a-z0-9]{1,12})*")  # no token: those go on for longer
_SPACE = re.compile(r"\s")


def masked(text: str) -> str:
    """The text with `***` for the secrets in it: `postgresql://me:***@host/db`."""
    pattern = known_values.pattern()
    found = {} if pattern is None else {match.start(1): match.end(1) for match in pattern.finditer(text)}
    return encoded(hidden(text, [*found.items(), *(_cut(text, span, found) for span in by_form(text))]))


def _cut(text: str, span: Span, found: dict[int, int]) -> Span:
    """What has a secret's form may go on with a space; not behind one that is known and begins at the same place."""
    start, end = span
    more = _SPACE.search(text, found[start], end) if start in found else None
    return (start, more.start()) if more else span


def masked_all(value: Any) -> Any:
    """The same for every text in plain data: lists, mappings and their keys. Keys that are mere names stay, though a
    password may be `test`; of the others, each stays one of its own."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        names = [name if _NAME.fullmatch(str(name)) else masked_all(name) for name in value]
        names = [f"{name} ({n})" if (n := names[:at].count(name) + 1) > 1 else name for at, name in enumerate(names)]
        return dict(zip(names, map(masked_all, value.values()), strict=True))
    return [masked_all(child) for child in value] if isinstance(value, list | tuple) else value


def without_keys(text: str) -> str:
    """The text with `***` for each private key: what is left may be cut, or masked line by line."""
    return PRIVATE_KEY.sub(HIDDEN, text)


def opens_a_key(text: str) -> bool:
    """Whether a private key begins in the text, and may go on behind it."""
    _, begins, rest = text.rpartition("-----BEGIN ")
    key = KEY_BEGINS.match(begins + rest)
    return key is not None and all(map(KEY_LINE.fullmatch, (begins + rest)[key.end() :].split("\n")))


def behind_key(line: str) -> str | None:
    """What a line has behind a private key that began before it; None where it is of the key, and no more."""
    end = KEY_ENDS.search(line)
    if end is not None:
        return line[end.end() :]
    return None if KEY_LINE.fullmatch(line) else line
