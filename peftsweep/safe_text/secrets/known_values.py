"""Secrets that this process was given, looked for by themselves: wherever they stand, and however they are written."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from peftsweep.safe_text.secrets.patterns import given
from peftsweep.safe_text.secrets.secret_names import means_secret
from peftsweep.safe_text.secrets.token_prefixes import BEGIN
from peftsweep.safe_text.secrets.urls import BEGINS, logins

SHORTEST = 4  # characters of a secret that is looked for by itself: shorter ones are in many texts
DIGITS = 6  # of one that is a number
CERTAIN = 8  # characters from which one is not a part of another word by chance
NO_SECRETS = frozenset({"true", "false", "none", "null", "default", "disabled", "enabled", "required"})
# Variables that are called so and have no secret: a folder, a kind of desktop.
ORDINARY = ("PWD", "OLDPWD", "DESKTOP_SESSION", "GDMSESSION", "XDG_SESSION_ID")

_given: set[str] = set()


def remember(text: str) -> None:
    """Know the secrets of an address from now on, wherever they turn up.

    Args:
        text: one address and nothing else, `name=value`, or a connection string; of any other text nothing is kept.
    """
    _given.update(_worth_knowing(text))


def remember_words(words: Iterable[str]) -> None:
    """Know the secrets of a command: of each of its words, and what stands behind an option such as `--token`."""
    before = ""
    for word in words:
        remember(f"{before}={word}" if before.startswith("-") and "=" not in before else word)
        remember(word)
        before = word


def pattern() -> re.Pattern[str] | None:
    """What finds the secrets that are known by now, each as the first group; None where there are none."""
    return _pattern(frozenset({*_given, *_environment(tuple(os.environ.items()))}))


def _worth_knowing(text: str) -> Iterator[str]:
    yield from given(text)
    for user, password in logins(text):
        yield from _login(user, password)


def _login(user: str, password: str) -> Iterator[str]:
    """As HTTP sends it: `Basic bWU6UFc=`."""
    login = b64encode(f"{unquote(user)}:{unquote(password)}".encode(errors="replace")).decode()
    yield from (login, login.rstrip("="))


@lru_cache(maxsize=2)
def _environment(variables: tuple[tuple[str, str], ...]) -> frozenset[str]:
    found = set[str]()
    for name, value in variables:
        if means_secret(name, told=True) and name not in ORDINARY:
            if value.lower() not in NO_SECRETS and not _is_path(value):
                found.add(value)
        elif BEGINS.match(value) or not re.search(r"\s", value):  # and no text with an address in it
            found.update(_worth_knowing(value))
    whole = dict(variables)
    user, password = whole.get("MLFLOW_TRACKING_USERNAME"), whole.get("MLFLOW_TRACKING_PASSWORD")
    return frozenset(found.union(_login(user, password) if user and password else ()))


def _is_path(value: str) -> bool:
    """Whether it says where a secret is, as GOOGLE_APPLICATION_CREDENTIALS does."""
    try:
        return value.startswith(("/", "~", ".")) and Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


# How a secret is written ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str] | None:
    plain = {form for secret in secrets for form in (secret, unquote(secret)) if _is_rare(form)}
    either = "|".join(map(_written, sorted(plain, key=len, reverse=True)))
    return re.compile(f"(?=({either}))") if plain else None  # one may begin in the midst of another


def _is_rare(secret: str) -> bool:
    """Whether it is long enough to mean the secret wherever it stands."""
    number = re.fullmatch(r"[\d.,eE+-]+", secret)
    return len(secret.strip()) >= (DIGITS if number else SHORTEST) and secret.strip("*") != ""


def _written(secret: str) -> str:
    """A pattern for it; where it could be a word or a number, not as a part of another one."""
    pattern = "".join(map(_ways, secret))
    if re.fullmatch(r"[\d.,eE+-]+", secret):
        return rf"(?:(?<![\w.])|{BEGIN[3:-1].partition('|')[2]}){pattern}(?![\w.]*\w)"
    if secret.isalpha() or (secret.isalnum() and len(secret) < CERTAIN):
        return rf"{BEGIN}{pattern}(?![A-Za-z0-9_])"
    return pattern


@lru_cache(maxsize=1024)
def _ways(character: str) -> str:
    """A pattern for the ways to write a character: as it is, percent-encoded once or twice, quoted by Python, JSON or a
    shell, escaped in HTML."""
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
    """Its code, or those of the pair of surrogates that JSON writes for it."""
    pair = character.encode("utf-16-be", errors="surrogatepass")
    return [int.from_bytes(pair[at : at + 2], "big") for at in range(0, len(pair), 2)]
