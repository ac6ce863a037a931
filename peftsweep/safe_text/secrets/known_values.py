"""Which secrets did this process receive, and how are they found anywhere in a text, in any notation?"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from peftsweep.safe_text.secrets.patterns import secrets_of_setting
from peftsweep.safe_text.secrets.secret_names import means_secret
from peftsweep.safe_text.secrets.token_prefixes import BEGIN
from peftsweep.safe_text.secrets.urls import BEGINS, logins

MIN_LENGTH = 4  # characters of a known secret: shorter ones occur in many texts
MIN_DIGITS = 6  # digits of a known secret that is a number
CERTAIN = 8  # from this length a secret is not part of another word by chance
ORDINARY_VALUES = frozenset({"true", "false", "none", "null", "default", "disabled", "enabled", "required"})
# Variables with a suspicious name but no secret: a folder, a kind of desktop.
ORDINARY_VARIABLES = ("PWD", "OLDPWD", "DESKTOP_SESSION", "GDMSESSION", "XDG_SESSION_ID")

_given: set[str] = set()


def remember(text: str) -> None:
    """Mask the secrets of this setting from now on, wherever they occur.

    Args:
        text: a single address, `name=value`, or a connection string. Any other text is ignored.
    """
    _given.update(_secrets_in(text))


def remember_words(words: Iterable[str]) -> None:
    """Mask the secrets of a command line from now on: those in its words, and values of options such as `--token`."""
    before = ""
    for word in words:
        remember(f"{before}={word}" if before.startswith("-") and "=" not in before else word)
        remember(word)
        before = word


def pattern() -> re.Pattern[str] | None:
    """A pattern whose first group matches the secrets known so far; None if there are none."""
    return _pattern(frozenset({*_given, *_environment(tuple(os.environ.items()))}))


def _secrets_in(text: str) -> Iterator[str]:
    yield from secrets_of_setting(text)
    for user, password in logins(text):
        yield from _login(user, password)


def _login(user: str, password: str) -> Iterator[str]:
    """The login as HTTP sends it: `Basic bWU6UFc=`."""
    login = b64encode(f"{unquote(user)}:{unquote(password)}".encode(errors="replace")).decode()
    yield from (login, login.rstrip("="))


@lru_cache(maxsize=2)
def _environment(variables: tuple[tuple[str, str], ...]) -> frozenset[str]:
    found = set[str]()
    for name, value in variables:
        if means_secret(name, single_value=True) and name not in ORDINARY_VARIABLES:
            if value.lower() not in ORDINARY_VALUES and not _is_path(value):
                found.add(value)
        elif BEGINS.match(value) or not re.search(r"\s", value):  # not a text that contains an address
            found.update(_secrets_in(value))
    whole = dict(variables)
    user, password = whole.get("MLFLOW_TRACKING_USERNAME"), whole.get("MLFLOW_TRACKING_PASSWORD")
    return frozenset(found.union(_login(user, password) if user and password else ()))


def _is_path(value: str) -> bool:
    """Whether the value is the path of a secret, as in GOOGLE_APPLICATION_CREDENTIALS."""
    try:
        return value.startswith(("/", "~", ".")) and Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


# How a secret is written ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str] | None:
    plain = {form for secret in secrets for form in (secret, unquote(secret)) if _is_rare(form)}
    either = "|".join(map(_pattern_of_secret, sorted(plain, key=len, reverse=True)))
    return re.compile(f"(?=({either}))") if plain else None  # a lookahead, because one may begin inside another


def _is_rare(secret: str) -> bool:
    """Whether the secret is long enough not to occur in other texts by chance."""
    number = re.fullmatch(r"[\d.,eE+-]+", secret)
    return len(secret.strip()) >= (MIN_DIGITS if number else MIN_LENGTH) and secret.strip("*") != ""


def _pattern_of_secret(secret: str) -> str:
    """A pattern for the secret. If it could be a word or a number, it must not be part of another one."""
    pattern = "".join(map(_pattern_of_character, secret))
    if re.fullmatch(r"[\d.,eE+-]+", secret):
        return rf"(?:(?<![\w.])|{BEGIN[3:-1].partition('|')[2]}){pattern}(?![\w.]*\w)"
    if secret.isalpha() or (secret.isalnum() and len(secret) < CERTAIN):
        return rf"{BEGIN}{pattern}(?![A-Za-z0-9_])"
    return pattern


@lru_cache(maxsize=1024)
def _pattern_of_character(character: str) -> str:
    """A pattern for all notations of a character: plain, percent-encoded once or twice, escaped by Python, JSON, a
    shell or HTML."""
    if character.isascii() and character.isalnum():
        return character
    code, utf8 = ord(character), character.encode(errors="surrogatepass")
    ways = {
        re.escape(character),
        "".join(f"%(?:25)?{_hex(f'{byte:02x}')}" for byte in utf8),
        "".join(rf"\\{{1,8}}x{_hex(f'{byte:02x}')}" for byte in utf8),
        rf"\\{{1,8}}x{_hex(f'{code:02x}')}",
        rf"\\{{1,8}}U{_hex(f'{code:08x}')}",
        "".join(rf"\\{{1,8}}u{_hex(f'{half:04x}')}" for half in _halves(character)),
        f"&#(?:0{{0,6}}{code}|[xX]0{{0,6}}{_hex(f'{code:x}')});",
        *_SPECIAL.get(character, ()),
    }
    if character in "\\\"'/$`!":
        ways.add(rf"\\{{1,8}}{re.escape(character)}")
    return f"(?:{'|'.join(sorted(ways, key=len, reverse=True))})"


_SPECIAL = {
    " ": [r"\+"],
    "&": ["&amp;"],
    "<": ["&lt;"],
    ">": ["&gt;"],
    '"': ["&quot;", "&#34;"],
    "'": ["&apos;", r"'\"'\"'", r"'\\{1,8}''"],
    "\n": [r"\\{1,8}n"],
    "\t": [r"\\{1,8}t"],
    "\r": [r"\\{1,8}r"],
}


def _hex(digits: str) -> str:
    return "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in digits)


def _halves(character: str) -> list[int]:
    """The code of the character, or those of the surrogate pair that JSON writes for it."""
    pair = character.encode("utf-16-be", errors="surrogatepass")
    return [int.from_bytes(pair[at : at + 2], "big") for at in range(0, len(pair), 2)]
