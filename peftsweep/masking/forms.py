"""Secrets that are found by their form, in any text: behind names that mean one, in headers, and by how they begin."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Iterator
from urllib.parse import unquote

from peftsweep.masking.addresses import in_addresses, in_one_address, without_scheme
from peftsweep.masking.hiding import Span, hidden
from peftsweep.masking.tokens import PRIVATE_KEY, SHAPES
from peftsweep.masking.words import means_secret

_QUOTED = r"'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\""
_BARE = r"[^\s&;,]*[^\s&;,'\"`)\]}>:]"
_NAME = r"[\w.%~\[\]-]{1,80}"
_EQUALS = re.compile(rf"(?<![\w.%~\[\]-])({_NAME})[ \t]?=(?!=)[ \t]?")
# Of a connection string: up to the next part of it, with spaces.
_PART = re.compile(rf"{_QUOTED}|\{{[^}}\n]*\}}|[^;\n'\"]{{1,300}}?(?=;[ ]?[\w .-]{{1,40}}=)|{_BARE}")
_IN_QUERY = re.compile(r"[^&\n'\"<>#?]{1,300}?(?=&[\w.%-]{1,80}=)|[^&\s'\"<>#]*[^&\s'\"<>#:]")
_IN_WHOLE_QUERY = re.compile(r"[^&#\n]+")
_COLON = re.compile(r"(?<![\w.%~-])([\w.-]{1,60})[ \t]?:[ \t]{0,8}(?=[^\s@])")
_LINE = re.compile(r"[^\n\r]*[^\n\r\s]")
_VALUE = re.compile(rf"{_QUOTED}|{_BARE}")
_IN_QUOTES = re.compile(
    r"(?P<open>\\*['\"])(?P<name>[\w.-]{1,60})(?P=open)\s*[:=]\s*(?:[bBuUrR](?=\\*['\"]))?(?P<value>\\*['\"]|\d{6,}\b(?![.]))"
)
_PAIR = re.compile(rf"\(b?['\"](?P<name>[\w.-]{{1,60}})['\"],\s*b?(?P<value>{_QUOTED})\)")
_WORDS = re.compile(rf"['\"](?P<name>--?[A-Za-z][\w.-]{{0,60}})['\"],\s*(?P<value>{_QUOTED})")
_ELEMENT = re.compile(r"<(?P<name>[\w:.-]{1,60})>(?P<value>[^<\n]+)</")
_OPTION = re.compile(rf"(?<![\w-])(--?[A-Za-z][\w.-]{{0,60}})(?:=|[ \t]+)(?!-)((?:{_QUOTED}|[^\s'\"])+)")
_HEADER = re.compile(
    r"authorization['\"]?\s*[:=,]\s*(?:b?['\"])?"
    r"(?:(?:digest|hawk|signature|aws4[\w-]*)\s+(?P<rest>[^\n'\\]+)|(?:(?:basic|bearer|token|negotiate|ntlm|apikey|key)\s+)?"
    r"(?P<one>[^\s'\",\\]+))",
    re.IGNORECASE,
)
_COOKIE = re.compile(r"\bcookie2?['\"]?\s*[:=,]\s*(?:b?['\"])?([^\s=;'\"]+=[^\n'\"\\]*)", re.IGNORECASE)
_BEARER = re.compile(r"\bbearer\s+((?=\S*(?:\d|(?-i:[A-Z])|[._~+/=-]\w))[\w.~+/=-]{8,})", re.IGNORECASE)
_BASIC = re.compile(r"\bbasic\s+([A-Za-z0-9+/]{6,}={0,2})", re.IGNORECASE)
_HEADERS_NAME = re.compile(r"[Xx]-[\w-]+|(?:[A-Z][A-Za-z0-9]*-)+[A-Z][A-Za-z0-9]*")
_ENCODED = re.compile(r"%(?:25)?3[aAdD]")
NOTHING = frozenset({"none", "null", "true", "false", "***"})
CREDENTIAL = 16  # characters of letters and digits from which what stands behind `token: ` is one


def by_form(text: str) -> Iterator[Span]:
    """Where secrets stand in a text, by their form."""
    yield from _for_certain(text)
    if ":" in text:
        yield from _behind_colons(text)
    for header in _HEADER.finditer(text):
        yield header.span("rest" if header["rest"] else "one")
    if "'" in text or '"' in text:
        yield from _in_quotes(text)
    for option in _OPTION.finditer(text):
        if means_secret(option[1], told=True):
            yield option.span(2)
    yield from (found.span("value") for found in _ELEMENT.finditer(text) if means_secret(found["name"], told=True))
    for pattern in (_COOKIE, _BEARER):
        yield from (found.span(1) for found in pattern.finditer(text))
    yield from (found.span(1) for found in _BASIC.finditer(text) if _is_login(found[1]))


def given(text: str) -> Iterator[str]:
    """The secrets of one address, of `name=value`, or of a connection string, and nothing else in the text."""
    for start, end in (*in_one_address(text), *_behind_equals(text, whole=True), *_tokens(text)):
        yield text[start:end].strip("'\"")
    if _ENCODED.search(text) and (plain := unquote(text)) != text:
        yield from given(plain)


def carries_secret(text: str) -> bool:
    """Whether there is a password or a token in an address, or in what else a study file may have for a value: that
    `password: reset` is a label is more likely."""
    return encoded(text, certain=True) != text or any(True for _ in _for_certain(text))


def encoded(text: str, *, certain: bool = False) -> str:
    """The text in which words that are percent-encoded, and have a secret in them, are decoded and masked."""
    if not _ENCODED.search(text):
        return text
    return re.sub(r"[^\s\"'<>]+", lambda word: _decoded(word[0], certain), text)


def _decoded(word: str, certain: bool) -> str:
    if not _ENCODED.search(word) or (plain := unquote(word)) == word:
        return word
    masked = encoded(hidden(plain, _for_certain(plain) if certain else by_form(plain)), certain=certain)
    return word if masked == plain else masked


def _for_certain(text: str) -> Iterator[Span]:
    """Those that cannot be anything else."""
    yield from _tokens(text)
    if "@" in text:
        yield from in_addresses(text)
        yield from without_scheme(text)
    if "=" in text:
        yield from _behind_equals(text)


def _tokens(text: str) -> Iterator[Span]:
    for shape in (SHAPES, PRIVATE_KEY):
        yield from (found.span() for found in shape.finditer(text))


def _behind_equals(text: str, *, whole: bool = False) -> Iterator[Span]:
    """Values of queries, of `name=value` and of parts of connection strings.

    Args:
        whole: the text is one `name=value`, if its name means a secret.
    """
    for name in _EQUALS.finditer(text):
        before, key = text[name.start() - 1 : name.start()], name[1]
        if before and before in "?&#;" and means_secret(key, told=True, query=True):
            in_query = _IN_WHOLE_QUERY if whole else _IN_QUERY
            value = (_PART if before == ";" else in_query).match(text, name.end())
        elif whole and name.start() == 0 and means_secret(key.rpartition(".")[2], told=True):
            yield name.end(), len(text)
            return
        elif means_secret(key):
            value = _PART.match(text, name.end())
        elif means_secret(key, told=True):
            value = _VALUE.match(text, name.end())
            value = value if value and _is_credential(value[0]) else None
        else:
            continue
        if value is not None and value[0].strip("'\"") not in NOTHING:
            yield value.span()


def _behind_colons(text: str) -> Iterator[Span]:
    """`password: x`, `X-Api-Key: x`. In a sentence there is more behind such a colon: words."""
    for name in _COLON.finditer(text):
        told = _HEADERS_NAME.fullmatch(name[1]) is not None
        value = _VALUE.match(text, name.end())
        if value is None or value[0].lower() in NOTHING:
            continue
        if means_secret(name[1], told=told):
            if not text[text.rfind("\n", 0, name.start()) + 1 : name.start()].strip(" \t->|*+"):
                value = _LINE.match(text, name.end()) or value  # a line of its own: all of it
                yield value.span()
            elif value[0][0] in "'\"" or not _goes_on(text, value):
                yield value.span()
        elif means_secret(name[1], told=True) and _is_credential(value[0]):
            yield value.span()


def _goes_on(text: str, value: re.Match[str]) -> bool:
    """Whether it is the first word of several."""
    return (
        value[0].isalpha()
        and value[0].islower()
        and re.match(r"[ \t]+\S", text[value.end() : value.end() + 9]) is not None
    )


def _is_credential(value: str) -> bool:
    plain = value.strip("'\"")
    return (
        len(plain) >= CREDENTIAL
        and re.fullmatch(r"[A-Za-z0-9+/_.~=-]+", plain) is not None
        and any(c.isdigit() for c in plain)
        and any(c.isalpha() for c in plain)
        and plain.count("/") < 2
        and not plain.startswith(("/", "."))
    )


def _in_quotes(text: str) -> Iterator[Span]:
    """`'password': 'x'`, `{\\"password\\": \\"x\\"}`, `("password", "x")`."""
    for found in _IN_QUOTES.finditer(text):
        quote = found["value"]
        if quote[-1] not in "'\"":
            if means_secret(found["name"]) and quote.lower() not in NOTHING:
                yield found.span("value")
            continue
        end = _closing(text, found.end(), quote)
        inner = text[found.end() : end]
        if inner and (
            means_secret(found["name"]) or (means_secret(found["name"], told=True) and _is_credential(inner))
        ):
            yield found.end(), end
    for pattern, told in ((_PAIR, False), (_WORDS, True)):
        for pair in pattern.finditer(text):
            if means_secret(pair["name"], told=told):
                yield pair.start("value") + 1, pair.end("value") - 1


def _closing(text: str, start: int, quote: str) -> int:
    """Where a text in quotes ends: at a quotation mark that is written as its first one is, or with its line."""
    line = text.find("\n", start)
    line = len(text) if line < 0 else line
    at = start
    while (at := text.find(quote, at, line)) >= 0:
        before = len(text[start:at]) - len(text[start:at].rstrip("\\"))
        if len(quote) > 1 or before % 2 == 0:
            return at
        at += 1
    return line


def _is_login(text: str) -> bool:
    try:
        return b":" in b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (Error, ValueError):
        return False
