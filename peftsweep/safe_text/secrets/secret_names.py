"""Which names mean a secret: the one table, for keys of queries, `name=value`, `name: value`, headers, parts of
connection strings, options and environment variables."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote

PASSWORDS = ("password", "passwd", "passphrase", "passcode", "pwd")  # which people choose: with spaces, too
# How the names end of which a value is a secret wherever it stands, without what is no letter or digit.
ALWAYS = tuple(
    f"{what}{end}"
    for what, ends in {
        "": (*PASSWORDS, "secret", "connectionstring"),
        **dict.fromkeys(("api", "app", "auth", "account", "encryption", "private"), ("key", "token")),
        **dict.fromkeys(("secret", "subscription", "shared", "signing", "master"), ("key",)),
        **dict.fromkeys(("bearer", "hf", "hub", "id", "refresh", "registry", "tracking"), ("token",)),
        **dict.fromkeys(("security", "service", "session", "vault"), ("key", "token")),
        "access": ("key", "keyid", "token"),
        "client": ("secret", "token"),
    }.items()
    for end in ends
)
# Last words of names that mean many things, and a secret where a name stands for one value alone: in an address's
# query, a header, an option, an environment variable.
TOLD = re.compile(
    "auth(orization)?|cookies?|cred(ential)?s?|csrf|xsrf|jwt|key|otp|passw?|pat|pin|pw|sas|secrets|sess(ion)?(id)?|sid|"
    "sig(nature)?|token"
)
# The same without what parts the words of a name: `usertoken`.
TOLD_ENDS = ("token", "signature", "credential", "credentials", "sessionid")
IN_QUERIES = ("code",)  # of signing in by another service
# Of what else there are keys.
NOT_KEYS = frozenset(
    ("primary", "public", "pub", "foreign", "partition", "sort", "sequence", "schema", "host", "index")
)

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W_A-Za-z]+")


@lru_cache(maxsize=4096)
def means_secret(name: str, *, told: bool = False, query: bool = False) -> bool:
    """Whether what has this name is a secret.

    Args:
        name: `sslpassword`, `X-Api-Key`, `HF_TOKEN`, `api%5Fkey`.
        told: it stands where a name has one value: `--token`, `?key=`, `MY_PAT`; not `token: 5` in a sentence.
        query: it stands in the query of an address.
    """
    words = [word.lower() for word in _WORDS.findall(unquote(name))]
    whole = "".join(words)
    if not whole or (words[-1] == "key" and NOT_KEYS.intersection(words[:-1])):
        return False
    if whole.endswith(ALWAYS):
        return True
    if not (told or query):
        return is_variable(name) and TOLD.fullmatch(words[-1]) is not None
    for_sure = TOLD.fullmatch(words[-1]) or TOLD.fullmatch(whole) or whole.endswith(TOLD_ENDS)
    return bool(for_sure) or (query and words[-1] in IN_QUERIES)


def means_password(name: str) -> bool:
    """Whether it is a password, or called secret, which may have spaces in it as no token has."""
    whole = "".join(_WORDS.findall(unquote(name))).lower()
    return whole.endswith((*PASSWORDS, "pass", "pw", "secret"))


def is_variable(name: str) -> bool:
    """Whether it is called as variables of the environment are: `MY_TOKEN`, and not KEY, which stands for any key."""
    return name.isupper() and ("_" in name or name.endswith("TOKEN"))
