"""Secrets reach no terminal, log, database or file: `***` stands in their place.

Two ways lead to a secret in a text.

- **Known ones** (`known`), wherever they stand and however they are written: those of the addresses, `name=value` and
  options that this process was given (`remember`: the command line, the study file, the storage, the tracker), and of
  the environment.
- **By their form** (`forms`), in any text: of addresses (`addresses`), behind names that mean a secret (`words`), and
  tokens by how they begin (`tokens`).

Not recognised: a secret that nothing gives away, such as a password in a sentence that this process was not given; the
parts of a known one; one of fewer than four characters, or a number of fewer than six digits, but where its form tells;
in a text of which nothing is known, a password behind its first `@` and a space. Too much is hidden where a password is
a common word: `***` then stands for the word, by itself, elsewhere too.
"""

from __future__ import annotations

from typing import Any

from peftsweep.masking import known
from peftsweep.masking.forms import by_form, carries_secret, encoded
from peftsweep.masking.hiding import HIDDEN, hidden
from peftsweep.masking.known import remember, remember_words

__all__ = ["HIDDEN", "carries_secret", "masked", "masked_all", "remember", "remember_words"]


def masked(text: str) -> str:
    """The text with `***` for the secrets in it: `postgresql://me:***@host/db`."""
    pattern = known.pattern()
    found = [] if pattern is None else [match.span(1) for match in pattern.finditer(text)]
    return encoded(hidden(text, [*found, *by_form(text)]))


def masked_all(value: Any) -> Any:
    """The same for every text in plain data: lists, mappings and their keys."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {masked_all(name): masked_all(child) for name, child in value.items()}
    return [masked_all(child) for child in value] if isinstance(value, list | tuple) else value
