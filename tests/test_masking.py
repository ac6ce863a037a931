"""Passwords are hidden wherever an address is shown."""

from __future__ import annotations

import pytest

from peftsweep.masking import masked


@pytest.mark.parametrize(
    "password", ["s3cret", "s3/cret", "s3@cret", "s3?cret", "s3:cret", "p%40s3cret", "s3#/@?:cret"]
)
def test_a_password_is_hidden_whatever_it_is_made_of(password: str) -> None:
    assert masked(f"foo://me:{password}@host/db") == "foo://me:***@host/db"
    assert masked(f"no driver for 'foo://:{password}@host:5432/db'") == "no driver for 'foo://:***@host:5432/db'"


@pytest.mark.parametrize("key", ["password", "sslpassword", "PWD", "access_token"])
def test_a_password_behind_a_question_mark_is_hidden(key: str) -> None:
    assert masked(f"postgresql://host/db?user=me&{key}=s3cret&x=1") == f"postgresql://host/db?user=me&{key}=***&x=1"


def test_each_address_of_a_text_is_masked_by_itself() -> None:
    assert masked("from a://u:x@h to b://v:y@i") == "from a://u:***@h to b://v:***@i"


@pytest.mark.parametrize("text", ["sqlite:///studies.db", "http://user@host:5000/x", "me@host: no", "http://host:5000"])
def test_what_has_no_password_stays(text: str) -> None:
    assert masked(text) == text
