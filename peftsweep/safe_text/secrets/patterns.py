"""Where in any text are secrets, judged by their form? After telling names, in headers and addresses, as tokens."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Iterator
from urllib.parse import unquote

from peftsweep.safe_text.secrets.secret_names import means_password, means_secret
from peftsweep.safe_text.secrets.spans import HIDDEN, Span, hide
from peftsweep.safe_text.secrets.token_prefixes import PRIVATE_KEY, SHAPES
from peftsweep.safe_text.secrets.urls import in_addresses, in_one_address

# Values: in quotes, or a word without the mark that ends a sentence or a bracket.
_QUOTED = r"'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\""
_BARE = r"[^\s&;,]*[^\s&;,'\"`)\]}>:]"
_VALUE = re.compile(rf"{_QUOTED}|{_BARE}")
_LINE = re.compile(r"[^\n\r]*[^\n\r\s]")
# A part of a connection string, with spaces, up to the next part.
_PART = re.compile(rf"{_QUOTED}|\{{[^}}\n]{{0,300}}\}}|[^;\n'\"]{{1,300}}?(?=;[ ]?[\w .-]{{1,40}}=)|{_BARE}")
# In a query: a value with spaces up to the next part; the last value, which ends with the word; a last password, which
# ends where a message continues after the address, or with the line.
_IN_QUERY = re.compile(r"[^&\n'\"<>#?]{1,300}?(?=&[\w.%-]{1,80}=)|[^&\s'\"<>#]*[^&\s'\"<>#:]")
_LAST_PASSWORD = re.compile(r"(?:(?!:(?:\s|$)| \()[^&\n\r'\"<>#`]){1,2000}")
_IN_WHOLE_QUERY = re.compile(r"[^&#\n]+")
# A credential after a name with other meanings: letters and digits, not a path or a word.
_PLAIN = "[A-Za-z0-9+/_.~=-]"
_CREDENTIAL = re.compile(
    r"['\"]?(?![/.])(?=[^\s/]{0,200}\d)(?=[^\s/]{0,200}[A-Za-z])(?!(?:[^\s/]{0,200}/){2})"
    rf"(?:{_PLAIN}{{400,}}+|{_PLAIN}{{16,399}}+(?![^\s&;,'\"`)\]}}>:]))"
)
_NUMBER = re.compile(r"[+-]?(?:\d{0,5}\.\d+|\d{1,5})(?:e[+-]?\d+)?%?")

# Names before values: `name=`, or `name: ` at the start of a line or inside it. Neither the user of an address
# (//name:x@h) nor what a message calls a column, a label, a key or a study.
_NAME = r"[\w.%~\[\]-]{1,80}"
_COLOUR = r"\x1b\[[0-9;]{0,20}m"  # on a terminal; the ; in it separates no settings
_EQUALS = re.compile(rf"(?:{_COLOUR}|(?<![\w.%~\[\]-]))({_NAME})[ \t]?=(?!=)[ \t]?")
_COLON = re.compile(
    r"(?:(?P<line>^[ \t>|*+-]{0,40})|(?<![\w.%~-])(?<!//)(?<!column )(?<!label )(?<!key )(?<!study ))"
    r"(?P<name>[\w.-]{1,60})[ \t]?:[ \t]{0,8}(?=[^\s@])",
    re.MULTILINE,
)
# 'name': 'value', {\"name\": \"value\"}, {'name': 1234567}
_IN_QUOTES = re.compile(
    r"(?P<open>\\{0,8}['\"])(?P<name>[\w.-]{1,60})(?P=open)\s{0,8}[:=]\s{0,8}(?:[bBuUrR](?=\\{0,8}['\"]))?"
    r"(?P<value>\\{0,8}['\"]|\d{6,}\b(?![.]))"
)
# ('name', 'value'); '--name', 'value', as Python writes the words of a command line
_PAIR = re.compile(
    rf"(?:(?P<open>\(b?)|(?=['\"]-))['\"](?P<name>[\w.-]{{1,60}})['\"],\s{{0,8}}b?(?P<value>{_QUOTED})(?(open)\))"
)
# <name>value</
_ELEMENT = re.compile(r"<(?P<name>[\w:.-]{1,60})>(?P<value>[^<\n]+)</")
# --name value, --name=value
_OPTION = re.compile(
    rf"(?<![\w-])(?P<name>--?[A-Za-z][\w.-]{{0,60}})(?:=|[ \t]+)(?!-)(?P<value>(?:{_QUOTED}|[^\s'\"])+)"
)

# HTTP headers: Authorization, except for the name of its scheme; cookies; what follows Bearer or Basic.
_HEADER = re.compile(
    r"authorization['\"]?\s{0,8}[:=,]\s{0,8}(?:b?['\"])?"
    r"(?:(?:digest|hawk|signature|aws4[\w-]{0,40})\s+(?P<rest>[^\n'\\]+)|"
    r"(?:(?:basic|bearer|token|negotiate|ntlm|apikey|key)\s+)?(?P<one>[^\s'\",\\]+))",
    re.IGNORECASE,
)
_COOKIE = re.compile(r"\bcookie2?['\"]?\s{0,8}[:=,]\s{0,8}(?:b?['\"])?([^\s=;'\"]{1,100}=[^\n'\"\\]*)", re.IGNORECASE)
_BEARER = re.compile(r"\bbearer\s+((?=\S*(?:\d|(?-i:[A-Z])|[._~+/=-]\w))[\w.~+/=-]{8,})", re.IGNORECASE)
_BASIC = re.compile(r"\bbasic\s+([A-Za-z0-9+/]{6,}={0,2})", re.IGNORECASE)
_HEADERS_NAME = re.compile(r"[Xx]-[\w-]+|(?:[A-Z][A-Za-z0-9]*-)+[A-Z][A-Za-z0-9]*")

_ENCODED = re.compile(r"%(?:25)?3[aAdD]")  # a colon or = that is percent-encoded, once or twice
LAYERS = 3  # of percent-encoding to decode
_MORE = re.compile(r"[ \t]{1,8}[^\s]")
NOTHING = frozenset({"none", "null", "true", "false", HIDDEN})


def find_by_form(text: str) -> Iterator[Span]:
    """The spans of the secrets in a text, judged by their form."""
    certain = list(_certain_spans(text))
    yield from certain
    known = {start for start, _ in certain}
    # The user of an address may be a telling name. The address shows where its password ends: x-access-token:PW@host/x
    yield from (span for span in _by_name(text) if span[0] not in known)


def _by_name(text: str) -> Iterator[Span]:
    if ":" in text:
        yield from _behind_colons(text)
    for header in _HEADER.finditer(text):
        yield header.span("rest" if header["rest"] else "one")
    if "'" in text or '"' in text:
        yield from _in_quotes(text)
    for pattern in (_OPTION, _ELEMENT):
        yield from (
            found.span("value") for found in pattern.finditer(text) if means_secret(found["name"], single_value=True)
        )
    for pattern in (_COOKIE, _BEARER):
        yield from (found.span(1) for found in pattern.finditer(text))
    yield from (found.span(1) for found in _BASIC.finditer(text) if _is_login(found[1]))


def secrets_of_setting(text: str) -> Iterator[str]:
    """The secrets of a setting: a single address, `name=value`, or a connection string."""
    for start, end in (*in_one_address(text), *_behind_equals(text, whole=True), *_tokens(text)):
        yield text[start:end].strip("'\"")
    if _ENCODED.search(text) and (plain := unquote(text)) != text:
        yield from secrets_of_setting(plain)


def carries_secret(text: str) -> bool:
    """Whether a value of a study file contains a password or a token. `password: reset` does not count: it is more
    likely a label."""
    return mask_encoded(text, certain=True) != text or any(True for _ in _certain_spans(text))


def mask_encoded(text: str, *, certain: bool = False, layers: int = LAYERS) -> str:
    """The text with percent-encoded words decoded and masked if they contain a secret."""
    if not layers or not _ENCODED.search(text):
        return text
    return re.sub(r"[^\s\"'<>]+", lambda word: _decoded(word[0], certain, layers - 1), text)


def _decoded(word: str, certain: bool, layers: int) -> str:
    if not _ENCODED.search(word) or (plain := unquote(word)) == word:
        return word
    spans = _certain_spans(plain) if certain else find_by_form(plain)
    masked = mask_encoded(hide(plain, spans), certain=certain, layers=layers)
    return word if masked == plain else masked


def _certain_spans(text: str) -> Iterator[Span]:
    """The spans that can only be secrets."""
    yield from _tokens(text)
    yield from in_addresses(text)
    if "=" in text:
        yield from _behind_equals(text)


def _tokens(text: str) -> Iterator[Span]:
    for shape in (SHAPES, PRIVATE_KEY):
        yield from (found.span() for found in shape.finditer(text))


def _behind_equals(text: str, *, whole: bool = False) -> Iterator[Span]:
    """Values of queries, of `name=value` and of parts of connection strings.

    Args:
        whole: the text is a single `name=value` if its name means a secret.
    """
    done = 0
    for name in _EQUALS.finditer(text):
        before, key, at = text[name.start() - 1 : name.start()], name[1], name.end()
        if at < done or text.startswith(HIDDEN, at):
            continue
        if whole and name.start() == 0 and means_secret(key.rpartition(".")[2], single_value=True):
            yield at, len(text)
            return
        if before and before in "?&#" and means_secret(key, single_value=True, query=True):
            value = _IN_WHOLE_QUERY.match(text, at) if whole else _in_query(text, at, key)
        elif means_secret(key) or (before == ";" and means_secret(key, single_value=True)):
            value = _PART.match(text, at)
        else:
            value = _CREDENTIAL.match(text, at) if means_secret(key, single_value=True) else None
        if value is not None and value[0].strip("'\"").lower() not in NOTHING:
            yield value.span()
            done = value.end()


def _in_query(text: str, at: int, key: str) -> re.Match[str] | None:
    value = _IN_QUERY.match(text, at)
    if value is None or text[value.end() : value.end() + 1] != " " or not means_password(key):
        return value
    return _LAST_PASSWORD.match(text, at)


def _behind_colons(text: str) -> Iterator[Span]:
    """Values in `password: x` and `X-Api-Key: x`, but not the words after such a colon in a sentence."""
    done = 0
    for name in _COLON.finditer(text):
        if name.end() < done or not means_secret(name["name"], single_value=True):
            continue
        if not means_secret(name["name"], single_value=_HEADERS_NAME.fullmatch(name["name"]) is not None):
            value = _CREDENTIAL.match(text, name.end())
        else:
            value = _VALUE.match(text, name.end())
            if value is None or value[0].lower() in NOTHING or _NUMBER.fullmatch(value[0]):
                continue
            if name["line"] is not None and not _starts_sentence(text, value):
                value = _LINE.match(text, name.end())  # a separate line: hide all of it
            elif _is_a_word(value[0].strip("'\"")):
                continue
        if value is not None:
            yield value.span()
            done = value.end()


def _starts_sentence(text: str, value: re.Match[str]) -> bool:
    """Whether more words follow, as in a sentence about a study or a label with the name `secret`."""
    return value[0].isalpha() and value[0].islower() and _MORE.match(text, value.end()) is not None


def _is_a_word(value: str) -> bool:
    """Whether the value may be a label or the next word of a sentence: `password: reset`, `passwd: a file's`."""
    letters = value.replace("'", "")
    return letters.isalpha() and letters[1:] == letters[1:].lower()


def _in_quotes(text: str) -> Iterator[Span]:
    """Values in `'password': 'x'`, `{\\"password\\": \\"x\\"}` and `("password", "x")`."""
    done = 0
    for found in _IN_QUOTES.finditer(text):
        sure = means_secret(found["name"])
        if found.end() < done or not means_secret(found["name"], single_value=True):
            continue
        if found["value"].isdigit():
            place = found.span("value") if sure else None
        else:
            end = _end_of_quotes(text, found.end(), found["value"])
            place = (found.end(), end) if sure or _CREDENTIAL.fullmatch(text, found.end(), end) else None
            done = end if sure else done
        if place is not None:
            yield place
    for pair in _PAIR.finditer(text):
        if means_secret(pair["name"], single_value=pair["open"] is None):
            yield pair.start("value") + 1, pair.end("value") - 1


def _end_of_quotes(text: str, start: int, quote: str) -> int:
    """The end of a quoted text: at a quotation mark like the first one, or at the end of the line."""
    written = re.escape(quote) if len(quote) > 1 else rf"(?<!\\)(?:\\\\){{0,50}}{quote}"
    end = re.compile(rf"{written}|(?=\n)|\Z").search(text, start)
    return len(text) if end is None else max(start, end.end() - (len(quote) if end[0] else 0))


def _is_login(text: str) -> bool:
    try:
        return b":" in b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (Error, ValueError):
        return False
