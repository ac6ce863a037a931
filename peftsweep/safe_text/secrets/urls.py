"""Where passwords and tokens stand in addresses.

- `user:PASSWORD@` of an address of any scheme, also where its slashes were collapsed (`https:/me:PW@h`), and of one
  without a scheme (`//me:PW@h`, `me:PW@h`). A password may have spaces, slashes, `?`, `#`, `:` and `@` in it.
- `TOKEN@` alone, unless the scheme's addresses have mere user names there: `ssh://git@host`, `postgresql://me@host`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from peftsweep.safe_text.secrets.spans import Span

LONGEST = 1000  # characters in which an address is looked at for its @
TOKEN = 20  # characters from which a user before a password is a token

BEGINS = re.compile(r"[a-z][a-z0-9+.-]*:/|//", re.IGNORECASE)
_SLASHES = re.compile(r":(//?)(?!/)|(?<![\w:/.~-])//(?!/)")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,30}$", re.IGNORECASE)
_USER = re.compile(r"(?!\[)([^/?#:\s\"'<>]*):")  # Azure's has an @: me@server:password@host; [ begins an IPv6 host
_LONE = re.compile(r"[^/?#@:\s\"'<>]+@")
_PORT = re.compile(r"\d{1,5}(?![^/?#,\s\"'<>)\].;])")
_HOST = re.compile(r"(?![^/?#\[]*:[^\d\s])(?:.*[./:?]|localhost$)")  # of which what follows a colon is a port
_QUERY_BEGINS = re.compile(r"\?[\w.%-]+=")
# Schemes whose addresses have a user's name, and no token, before the @.
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
# also where only the path is told, if something in it is as long as a token.
_WEBHOOK = re.compile(
    r"(?:\b(?:web)?hooks?\.[\w.-]{1,200}(?::\d{1,5})?\\?/|//[\w.:-]{1,255}(?:\\?/[\w.~-]{1,80}){0,6}?\\?/(?:web)?hook(?:s|b2)?\\?/"
    r"|/(?:web)?hook(?:s|b2)?/(?=[^\s?#]{0,100}[\w-]{16}))"
    r"(?=[^\s?#]{0,200}\d)(?![^\s?#]{0,200}\*\*\*)([^\s?#'\"<>]*[\w/=-])",
    re.IGNORECASE,
)


class Address(NamedTuple):
    """Where an address is: its scheme's first character, and the first one behind its slashes."""

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
        if address.start < done:  # inside of a password
            continue
        place = _within(text, address)
        if place is not None:
            yield place
            done = place[1]


def in_one_address(text: str) -> Iterator[Span]:
    """The password or token of one address, all of the text, or of `name=address`. One that is also the user's name is
    none, and would hide that everywhere."""
    for start, place in _whole(text):
        user = text[start : max(start, place[0] - 1)]
        if text[slice(*place)] != user:
            yield place


def logins(text: str) -> Iterator[tuple[str, str]]:
    """The user and the password of one address."""
    for start, place in _whole(text):
        if place[0] > start:
            yield text[start : place[0] - 1], text[slice(*place)]


def _whole(text: str) -> Iterator[tuple[int, Span]]:
    """Where the user of an address begins, and where its secret is."""
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
        if scheme is not None and (len(scheme[0]) > 1 or slashes[1] == "//"):  # C:/Users is none
            yield Address(before + scheme.start(), slashes.end(), scheme[0])


def _within(text: str, address: Address) -> Span | None:
    """Where the secret of an address is that begins so in a text: where the address ends is not known."""
    if not (_USER.match(text, address.end) or _LONE.match(text, address.end)):
        return None
    if text.find("@", address.end, address.end + LONGEST) < 0:
        return None
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
        whole = place is not None and _HOST.match(word[place[1] + 1 :])
        user = _USER.match(word)
        no_password = place is None and (user is None or _PORT.match(word, user.end()) is not None)
        if not whole and not no_password:  # a space in the password?
            place = _userinfo(rest, address.scheme) or place
    return None if place is None else (address.end + place[0], address.end + place[1])


def _is_host(rest: str, user: re.Match[str], first: int) -> bool:
    """Whether it is a host, with a port and a query that has an @ in it: `h.org:5432/d?password=a@b`."""
    port = _PORT.match(rest, user.end())
    return port is not None and _HOST.match(user[1]) is not None and _QUERY_BEGINS.search(rest, 0, first) is not None


def _userinfo(rest: str, scheme: str) -> Span | None:
    """Where the password or token is in what follows the slashes of an address, if there is one."""
    has_users = "http" not in scheme.lower() and _WITH_USERS.match(scheme) is not None
    user = _USER.match(rest)
    if user is not None and not ("@" in user[1] and _PORT.match(rest, user.end())):
        first = rest.find("@", user.end())
        if first >= 0 and not _is_host(rest, user, first):
            query = _QUERY_BEGINS.search(rest, first)
            last = rest.rfind("@", first, query.start() if query else len(rest))
            if not has_users and (len(user[1]) >= TOKEN or rest[user.end() : last] in ("", "x-oauth-basic")):
                return 0, last
            return user.end(), last
    lone = _LONE.match(rest)
    return (0, lone.end() - 1) if lone is not None and not has_users else None
