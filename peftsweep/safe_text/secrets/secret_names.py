"""Which names mean a secret? One table for queries, `name=value`, `name: value`, headers, connection strings, options
and environment variables."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote

PASSWORDS = ("password", "passwd", "passphrase", "passcode", "pwd")  # people choose them, so they may have spaces
# Ends of names (letters and digits only) whose value is always a secret.
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
# Last words of names with several meanings. They mean a secret only where a name has a single value: in the query of an
# address, a header, an option, an environment variable.
AMBIGUOUS = re.compile(
    "auth(orization)?|cookies?|cred(ential)?s?|csrf|xsrf|jwt|key|otp|passw?|pat|pin|pw|sas|secrets|sess(ion)?(id)?|sid|"
    "sig(nature)?|token"
)
# The same for names whose words are not separated: `usertoken`.
AMBIGUOUS_ENDS = ("token", "signature", "credential", "credentials", "sessionid")
IN_QUERIES = ("code",)  # of a login through another service
# Kinds of keys that are not secret.
NOT_KEYS = frozenset(
    ("primary", "public", "pub", "foreign", "partition", "sort", "sequence", "schema", "host", "index")
)

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W_A-Za-z]+")


@lru_cache(maxsize=4096)
def means_secret(name: str, *, single_value: bool = False, query: bool = False) -> bool:
    """Whether the value of this name is a secret.

    Args:
        name: such as `sslpassword`, `X-Api-Key`, `HF_TOKEN`, `api%5Fkey`.
        single_value: the name is where a name has a single value (`--token`, `?key=`, `MY_PAT`), not in a sentence
            (`token: 5`).
        query: the name is in the query of an address.
    """
    words = [word.lower() for word in _WORDS.findall(unquote(name))]
    whole = "".join(words)
    if not whole or (words[-1] == "key" and NOT_KEYS.intersection(words[:-1])):
        return False
    if whole.endswith(ALWAYS):
        return True
    if not (single_value or query):
        return is_variable(name) and AMBIGUOUS.fullmatch(words[-1]) is not None
    for_sure = AMBIGUOUS.fullmatch(words[-1]) or AMBIGUOUS.fullmatch(whole) or whole.endswith(AMBIGUOUS_ENDS)
    return bool(for_sure) or (query and words[-1] in IN_QUERIES)


def means_password(name: str) -> bool:
    """Whether the name means a password or a `secret`, which may contain spaces, unlike a token."""
    whole = "".join(_WORDS.findall(unquote(name))).lower()
    return whole.endswith((*PASSWORDS, "pass", "pw", "secret"))


def is_variable(name: str) -> bool:
    """Whether the name looks like an environment variable: `MY_TOKEN`, but not KEY, which may mean any key."""
    return name.isupper() and ("_" in name or name.endswith("TOKEN"))
