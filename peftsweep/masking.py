"""Secrets reach no terminal, log, database or file: `***` stands in their place.

Two ways lead to a secret in a text. **Known ones**, wherever they stand and however they are written (as they are,
percent-encoded, as Python or JSON quote them): those of addresses that this process was given (`remember`: each word
of the command line, each value of a study file, the storage, the tracker), and the values of environment variables
that are called a password, a token, a secret or a key, or hold an address with one. **By their form**, in any text:

- `user:PASSWORD@` of an address of any scheme, also where its slashes were collapsed (`https:/me:PW@h`) or all of it is
  percent-encoded. A password may have spaces, slashes, `?`, `#`, `:` and `@` in it.
- `TOKEN@` alone, unless the scheme's addresses have mere user names there: `ssh://git@host`, `postgresql://me@host`.
- values behind `?`, `&`, `;` or `#` whose name says what they are (`api_key`, `X-Amz-Signature`, `KEY`); `password=…`
  of a database's own kind of address; `'password': '…'` in quotes.
- `Authorization` headers, `Bearer …`, and tokens by their shape: Hugging Face, GitHub, GitLab, Databricks, OpenAI, JWT.

Not caught: a secret that nothing gives away (a password in a sentence, that this process was not given); of a known
one, its parts, and all of it where it is shorter than six characters or also the name of the user; in a text of which
nothing is known, a password behind its first `@` and a space. Too much is hidden where a password is a common word:
`***` then stands for the word, by itself, elsewhere too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"
SHORTEST = 6  # characters of a secret that is looked for by itself: shorter ones are parts of many words
LONGEST = 2000  # characters in which an address is looked at for its @
TOKEN = 20  # characters from which a user before a password is a token

_SLASHES = re.compile(r":(//?)(?!/)")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,30}$", re.IGNORECASE)
_ENCODED = re.compile(r"[a-z][a-z0-9+.-]{1,30}%3a(?:%2f){1,2}[^\s\"'<>]+", re.IGNORECASE)
_USER = re.compile(r"(?!\[)([^/?#:\s\"'<>]*):")  # Azure's has an @: me@server:password@host; [ begins an IPv6 host
_LONE = re.compile(r"[^/?#@:\s\"'<>]+@")
_PORT = re.compile(r"\d{1,5}(?![^/?#,\s\"'<>)\].;])")
_HOST = re.compile(r"[./:?]|localhost$")
_QUERY_BEGINS = re.compile(r"\?[\w.%-]+=")
_IN_QUERY = re.compile(r"([?&;#])([\w.%~\[\]-]{1,80})=([^&\s'\"<>#]+)")
# Schemes whose addresses have a user's name, and no token, before the @.
_WITH_USERS = re.compile(
    "postgres|mysql|maria|mssql|oracle|mongo|redis|cockroach|sqlite|amqp|ldap|ssh|git|sftp|ftp|rsync|smb|imap|smtp|file",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(r"(?<![\w.?&#;-])([\w.-]{1,60})=('[^'\n]*'|\"[^\"\n]*\"|[^\s&;,'\"]+)")
_QUOTED = re.compile(r"(['\"])([\w.-]{1,60})(\1\s*[:,=]\s*)('[^'\n]*'|\"[^\"\n]*\")")
_HEADER = re.compile(
    r"(authorization['\"]?\s*[:=,]\s*['\"]?(?:(?:basic|bearer|token|digest)\s+)?)[^\s'\",]+", re.IGNORECASE
)
_BEARER = re.compile(r"\b(bearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|dapi[0-9a-f]{16,}(?:-\d)?|sk-[\w-]{20,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*)"
)
# How names of secrets end, without what is no letter or digit: wherever they stand, and in an address's query.
_SECRET = tuple(
    f"{what}{end}"
    for what, ends in {
        "": ("password", "passwd", "passphrase", "pwd", "secret"),
        "api": ("key", "token"),
        "access": ("key", "keyid", "token"),
        "auth": ("key", "token"),
        **dict.fromkeys(("secret", "private", "account", "subscription"), ("key",)),
        **dict.fromkeys(("refresh", "bearer", "hf", "tracking", "security"), ("token",)),
    }.items()
    for end in ends
)
_IN_ADDRESSES = ("token", "signature", "credential", "credentials", "sessionid")
_WHOLE = ("key", "sig", "auth", "authorization", "pass", "pw", "pat", "sas", "jwt", "code")
_ENVIRONMENT = ("PASSWORD", "PASSWD", "PASSPHRASE", "TOKEN", "SECRET", "API_KEY", "APIKEY", "ACCESS_KEY", "SECRET_KEY")

_known: set[str] = set()


def masked(text: str) -> str:
    """The text with `***` for the secrets in it: `postgresql://me:***@host/db`."""
    for place in (_known_ones(frozenset({*_known, *_environment()})), _SHAPES):
        text = place.sub(HIDDEN, text) if place is not None else text
    return _by_form(text)


def masked_all(value: Any) -> Any:
    """The same for every text in plain data: lists, mappings and their keys."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {masked_all(name): masked_all(child) for name, child in value.items()}
    return [masked_all(child) for child in value] if isinstance(value, list | tuple) else value


def remember(text: str) -> None:
    """Know the secrets of an address from now on, wherever they turn up.

    Args:
        text: one address and nothing else, or `name=value`; of any other text nothing is kept.
    """
    _known.update(_worth_knowing(text))


def carries_secret(address: str) -> bool:
    """Whether there is a password or a token in it."""
    return _by_form(_SHAPES.sub(HIDDEN, address)) != address


# Known ones ---------------------------------------------------------------------------------------------------------


def _environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if name.upper().endswith(_ENVIRONMENT) and len(value) >= SHORTEST:
            yield value
        elif "://" in value and len(value.split()) == 1:  # an address, and no text with one in it
            yield from _worth_knowing(value)


def _worth_knowing(text: str) -> Iterator[str]:
    """The secrets of one address that can be looked for by themselves."""
    name, equals, value = text.partition("=")
    if equals and "/" not in name and _secret(name.rpartition(".")[2], address=True) and len(value) >= SHORTEST:
        yield value
    for address in _addresses(text):
        rest = text[address.end :]
        place = _userinfo(rest, address.scheme)
        if place is not None:
            user, secret = rest[: max(0, place[0] - 1)], rest[slice(*place)]
            if len(secret) >= SHORTEST and secret != user:  # equal ones are no secret, and hide the user everywhere
                yield secret
        for entry in re.split(r"[?&#]", rest)[1:]:
            name, _, value = entry.partition("=")
            if _secret(name, address=True) and len(value) >= SHORTEST:
                yield value
        return


@lru_cache(maxsize=8)
def _known_ones(secrets: frozenset[str]) -> re.Pattern[str] | None:
    forms = {form for secret in secrets for form in _forms(secret) if len(form) >= SHORTEST and form != HIDDEN}
    return re.compile("|".join(map(_alone, sorted(forms, key=len, reverse=True)))) if forms else None


def _forms(secret: str) -> Iterator[str]:
    """The ways to write it."""
    for plain in {secret, unquote(secret)}:
        yield from (plain, repr(plain)[1:-1], json.dumps(plain)[1:-1])
        if plain.isprintable():
            yield from (quote(plain), quote(plain, safe=""), quote_plus(plain))


def _alone(secret: str) -> str:
    """A pattern for it; where it could be a word, not as a part of another one."""
    return rf"(?<!\w){secret}(?!\w)" if secret.isalpha() else re.escape(secret)


# By their form ------------------------------------------------------------------------------------------------------


class Address(NamedTuple):
    """Where an address is: its scheme's first character, and the first one behind its slashes."""

    start: int
    end: int
    scheme: str


def _by_form(text: str) -> str:
    text = _without_userinfo(_ENCODED.sub(_encoded, text) if "%" in text else text)
    text = _IN_QUERY.sub(lambda m: f"{m[1]}{m[2]}={HIDDEN}" if _secret(m[2], address=True) else m[0], text)
    text = _ASSIGNED.sub(lambda m: f"{m[1]}={HIDDEN}" if _secret(m[1]) else m[0], text)
    text = _QUOTED.sub(lambda m: f"{m[1]}{m[2]}{m[3]}{m[4][0]}{HIDDEN}{m[4][0]}" if _secret(m[2]) else m[0], text)
    return _BEARER.sub(rf"\1{HIDDEN}", _HEADER.sub(rf"\1{HIDDEN}", text))


def _encoded(found: re.Match[str]) -> str:
    plain = unquote(found[0])
    hidden = _by_form(plain)
    return found[0] if hidden == plain else hidden


def _addresses(text: str) -> Iterator[Address]:
    for slashes in _SLASHES.finditer(text):
        before = max(0, slashes.start() - 31)
        scheme = _SCHEME.search(text[before : slashes.start()])
        if scheme is not None and (len(scheme[0]) > 1 or slashes[1] == "//"):  # C:/Users is none
            yield Address(before + scheme.start(), slashes.end(), scheme[0])


def _without_userinfo(text: str) -> str:
    parts, done = [], 0
    for address in _addresses(text):
        if address.start < done:  # inside of a password
            continue
        place = _within(text, address)
        if place is not None:
            parts += [text[done : place[0]], HIDDEN]
            done = place[1]
    return "".join([*parts, text[done:]])


def _within(text: str, address: Address) -> tuple[int, int] | None:
    """Where the secret of an address is that begins so in a text: where the address ends is not known."""
    rest = re.split(r"[\n\r]", text[address.end : address.end + LONGEST], maxsplit=1)[0]
    following = next(_addresses(rest), None)
    if following is not None and rest[: following.start].endswith(tuple(" '\"(<,")):
        rest = rest[: following.start]
    before = text[address.start - 1 : address.start]
    if before and before in "'\"`" and before in rest:
        rest = rest[: rest.index(before)]
        place = _userinfo(rest, address.scheme)  # in quotes: all of it, with spaces
    else:
        word = re.split(r"[\s\"<>]", rest, maxsplit=1)[0]
        place = _userinfo(word, address.scheme)
        whole = place is not None and _HOST.search(word[place[1] + 1 :])
        user = _USER.match(word)
        no_password = place is None and (user is None or _PORT.match(word, user.end()) is not None)
        if not whole and not no_password:  # a space in the password?
            place = _userinfo(rest, address.scheme) or place
    return None if place is None else (address.end + place[0], address.end + place[1])


def _userinfo(rest: str, scheme: str) -> tuple[int, int] | None:
    """Where the password or token is in what follows the slashes of an address, if there is one."""
    has_users = "http" not in scheme.lower() and _WITH_USERS.match(scheme) is not None
    user = _USER.match(rest)
    if user is not None and not ("@" in user[1] and _PORT.match(rest, user.end())):
        first = rest.find("@", user.end())
        if first >= 0:
            query = _QUERY_BEGINS.search(rest, first)
            last = rest.rfind("@", first, query.start() if query else len(rest))
            if not has_users and (len(user[1]) >= TOKEN or rest[user.end() : last] in ("", "x-oauth-basic")):
                return 0, last
            return user.end(), last
    lone = _LONE.match(rest)
    return (0, lone.end() - 1) if lone is not None and not has_users else None


def _secret(name: str, *, address: bool = False) -> bool:
    """Whether what has this name is one: `sslpassword`, `HF_TOKEN`; in an address `X-Amz-Signature` and `token`."""
    plain = re.sub(r"[^a-z0-9]", "", unquote(name).lower())
    if plain.endswith(_SECRET) or (name.isupper() and plain.endswith("token")):
        return True
    return address and (plain in _WHOLE or plain.endswith(_IN_ADDRESSES))
