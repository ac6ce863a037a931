"""Where in an address is a password or a token?

- `user:PASSWORD@` in an address with any scheme, also if its slashes were collapsed (`https:/me:PW@h`), or without a
  scheme (`//me:PW@h`, `me:PW@h`). A password may contain spaces, slashes, `?`, `#`, `:` and `@`.
- `TOKEN@`, unless addresses of the scheme have plain user names there: `ssh://git@host`, `postgresql://me@host`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from peftsweep.safe_text.secrets.spans import Span

MAX_ADDRESS = 1000  # characters of an address in which to look for its @
MIN_TOKEN = 20  # from this length on, a user before a password is a token

BEGINS = re.compile(r"[a-z][a-z0-9+.-]*:/|//", re.IGNORECASE)
_SLASHES = re.compile(r":(//?)(?!/)|(?<![\w:/.~-])//(?!/)")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,30}$", re.IGNORECASE)
_USER = re.compile(r"(?!\[)([^/?#:\s\"'<>]*):")  # Azure's has an @: me@server:password@host; [ begins an IPv6 host
_LONE = re.compile(r"[^/?#@:\s\"'<>]+@")
_PORT = re.compile(r"\d{1,5}(?![^/?#,\s\"'<>)\].;])")
_HOST = re.compile(r"(?![^/?#\[]*:[^\d\s])(?:.*[./:?]|localhost$)")  # a host, in which only a port may follow a colon
_QUERY_BEGINS = re.compile(r"\?[\w.%-]+=")
# Schemes whose addresses have a user name before the @, not a token.
_WITH_USERS = re.compile(
    "postgres|mysql|maria|mssql|oracle|mongo|cockroach|sqlite|amqp|ldap|ssh|git|sftp|ftp|rsync|smb|imap|smtp|file",
    re.IGNORECASE,
)
# me:PW@host, but neither C:/Users, mailto:me@host, nor image:tag@sha256:…
_WITHOUT_SCHEME = re.compile(
    r"(?<![^\s'\"(=<\[,])(?!(?:mailto|xmpp|sips?|acct|npm):)([A-Za-z][\w.+-]{0,63}):(?![/\\\s])([^\s'\"<>]{1,200})@(?=[A-Za-z0-9\[])(?!sha\d)"
)


# Where the path is the secret: https://hooks.slack.com/services/T0/B0/XX, https://discord.com/api/webhooks/1/XX,
# https://x.webhook.office.com/webhookb2/…, https://chat.example.org/hooks/XX
# Also a path alone, if a part of it is as long as a token.
_WEBHOOK = re.compile(
    r"(?:\b(?:web)?hooks?\.[\w.-]{1,200}(?::\d{1,5})?\\?/|//[\w.:-]{1,255}(?:\\?/[\w.~-]{1,80}){0,6}?\\?/(?:web)?hook(?:s|b2)?\\?/"
    r"|/(?:web)?hook(?:s|b2)?/(?=[^\s?#]{0,100}[\w-]{16}))"
    r"(?=[^\s?#]{0,200}\d)(?![^\s?#]{0,200}\*\*\*)([^\s?#'\"<>]*[\w/=-])",
    re.IGNORECASE,
)


class Address(NamedTuple):
    """The beginning of an address: the first character of its scheme, and the first one after its slashes."""

    start: int
    end: int
    scheme: str


def in_addresses(text: str) -> Iterator[Span]:
    """The passwords and tokens of all addresses in a text."""
    yield from (found.span(1) for found in _WEBHOOK.finditer(text))
    if "@" not in text:
        return
    yield from (found.span(2) for found in _WITHOUT_SCHEME.finditer(text))
    done = 0
    for address in _addresses(text):
        if address.start < done:  # inside a password
            continue
        place = _secret_in_text(text, address)
        if place is not None:
            yield place
            done = place[1]


def in_one_address(text: str) -> Iterator[Span]:
    """The password or token in a text that is a single address or `name=address`. A password equal to the user name
    does not count, because it would hide that name everywhere."""
    for start, place in _secret_of_address(text):
        user = text[start : max(start, place[0] - 1)]
        if text[slice(*place)] != user:
            yield place


def logins(text: str) -> Iterator[tuple[str, str]]:
    """The user and the password in a text that is a single address."""
    for start, place in _secret_of_address(text):
        if place[0] > start:
            yield text[start : place[0] - 1], text[slice(*place)]


def _secret_of_address(text: str) -> Iterator[tuple[int, Span]]:
    """The position of the user of an address, and the span of its secret."""
    for address in _addresses(text):
        place = _userinfo(text[address.end :], address.scheme)
        if place is not None:
            yield address.end, (address.end + place[0], address.end + place[1])
        return
    for found in _WITHOUT_SCHEME.finditer(text):
        yield found.start(1), found.span(2)


def _addresses(text: str) -> Iterator[Address]:
    for slashes in _SLASHES.finditer(text):
        if slashes[1] is None:
            yield Address(slashes.start(), slashes.end(), "")
            continue
        before = max(0, slashes.start() - 31)
        scheme = _SCHEME.search(text[before : slashes.start()])
        if scheme is not None and (len(scheme[0]) > 1 or slashes[1] == "//"):  # C:/Users is not an address
            yield Address(before + scheme.start(), slashes.end(), scheme[0])


def _secret_in_text(text: str, address: Address) -> Span | None:
    """The span of the secret of an address within a text, where the end of the address is unknown."""
    if not (_USER.match(text, address.end) or _LONE.match(text, address.end)):
        return None
    if text.find("@", address.end, address.end + MAX_ADDRESS) < 0:
        return None
    rest = re.split(r"[\n\r]", text[address.end : address.end + MAX_ADDRESS], maxsplit=1)[0]
    following = next(_addresses(rest), None)
    if following is not None and rest[: following.start].endswith(tuple(" '\"(<,")):
        rest = rest[: following.start]
    before = text[address.start - 1 : address.start]
    if before and before in "'\"`" and before in rest:
        rest = rest[: rest.index(before)]
        place = _userinfo(rest, address.scheme)  # in quotes: everything, with spaces
    else:
        word = re.split(r"[\s\"<>]", rest, maxsplit=1)[0]
        place = _userinfo(word, address.scheme)
        whole = place is not None and _HOST.match(word[place[1] + 1 :])
        user = _USER.match(word)
        no_password = place is None and (user is None or _PORT.match(word, user.end()) is not None)
        if not whole and not no_password:  # the password may contain a space
            place = _userinfo(rest, address.scheme) or place
    return None if place is None else (address.end + place[0], address.end + place[1])


def _is_host(rest: str, user: re.Match[str], first: int) -> bool:
    """Whether it is a host with a port, and the @ is in its query: `h.org:5432/d?password=a@b`."""
    port = _PORT.match(rest, user.end())
    return port is not None and _HOST.match(user[1]) is not None and _QUERY_BEGINS.search(rest, 0, first) is not None


def _userinfo(rest: str, scheme: str) -> Span | None:
    """The span of the password or token in the text after the slashes of an address; None if there is none."""
    has_users = "http" not in scheme.lower() and _WITH_USERS.match(scheme) is not None
    user = _USER.match(rest)
    if user is not None and not ("@" in user[1] and _PORT.match(rest, user.end())):
        first = rest.find("@", user.end())
        if first >= 0 and not _is_host(rest, user, first):
            query = _QUERY_BEGINS.search(rest, first)
            last = rest.rfind("@", first, query.start() if query else len(rest))
            if not has_users and (len(user[1]) >= MIN_TOKEN or rest[user.end() : last] in ("", "x-oauth-basic")):
                return 0, last
            return user.end(), last
    lone = _LONE.match(rest)
    return (0, lone.end() - 1) if lone is not None and not has_users else None
