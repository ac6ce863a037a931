"""Which parts of a text are secrets, and which are not?"""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
import time
from urllib.parse import quote, quote_plus

import jinja2
import markupsafe
import pytest

from peftsweep.safe_text.secrets import known_values, masked, masked_all, remember, remember_words
from peftsweep.system import command_line

SECRET = "s3/cr et@#?:%&9"  # recognised by its place in a text, not by its form


@pytest.fixture(autouse=True)
def no_known_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_values, "_given", set())


@pytest.mark.parametrize(
    "password",
    [
        "s3cret",
        "s3/cret",
        "s3@cret",
        "s3?cret",
        "s3:cret",
        "p%40s3cret",
        "s3#/@?:cret",
        "s3 cret",
        "s3 c/r et",
        "s3@c ret",
    ],
)
def test_a_password_is_hidden_whatever_its_characters(password: str) -> None:
    assert masked(f"foo://me:{password}@host/db") == "foo://me:***@host/db"
    assert masked(f"no driver for 'foo://:{password}@host:5432/db'") == "no driver for 'foo://:***@host:5432/db'"
    assert masked(f"foo://me:{password}@host:1/db does not answer") == "foo://me:***@host:1/db does not answer"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https:/me:PW@h is not there", "https:/me:***@h is not there"),  # with one slash, as in a path
        ("http://TOKEN@host/x", "http://***@host/x"),
        ("git+https://TOKEN@host/x", "git+https://***@host/x"),
        ("http://TOKEN:@host/x", "http://***@host/x"),
        ("https://longer-than-any-name:x-oauth-basic@h", "https://***@h"),
        ("postgresql+psycopg://me:PW@h/db?x=a@b.c&y=1", "postgresql+psycopg://me:***@h/db?x=a@b.c&y=1"),
        ("postgresql://me@server:PW@h:5432/db", "postgresql://me@server:***@h:5432/db"),
        ("see http%3A%2F%2Fme%3APW%40host%2Fx", "see http://me:***@host/x"),
        ("x?url=https%3a%2f%2fh%2f%3ftoken%3dPW&y=1", "x?url=https://h/?token=***&y=1"),
        ("from a://u:x@h to b://v:y@i", "from a://u:***@h to b://v:***@i"),
        ("https://h/x?a=1&api_key=PW#access_token=PW", "https://h/x?a=1&api_key=***#access_token=***"),
        ("https://h/?X-Amz-Signature=PW&Key=PW&api%5Fkey=PW", "https://h/?X-Amz-Signature=***&Key=***&api%5Fkey=***"),
        ("host=h user=me password='P W' dbname=d", "host=h user=me password=*** dbname=d"),
        ("{'password': 'P W', 'n': 1}", "{'password': '***', 'n': 1}"),
        ('{"api_key": "PW", "n": 1}', '{"api_key": "***", "n": 1}'),
        ("postgresql://h/d?password=PW: no; api_key=PW: no", "postgresql://h/d?password=***: no; api_key=***: no"),
        ("\x1b[0m\x1b[1;33mHF_TOKEN=PW and", "\x1b[0m\x1b[1;33mHF_TOKEN=*** and"),
        ("HF_TOKEN=PW and MY_TOKEN=PW", "HF_TOKEN=*** and MY_TOKEN=***"),
        ("Authorization: Basic UFc=, x", "Authorization: Basic ***, x"),
        ("{'authorization': 'Bearer PW'}", "{'authorization': 'Bearer ***'}"),
        ("sent Bearer abcd.efgh-ijk.", "sent Bearer ***"),
        ("hf_AbCdEfGhIjKlMnOpQrStUvWxYz is wrong", "*** is wrong"),
        ("ghp_0123456789abcdefghijABCDEFGHIJ456789", "***"),
        ("eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.abc-_9", "***"),
        ("https://h/a/eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0./x", "https://h/a/***/x"),
        ("eyJhbGciOiJkaXIiLCJl..AxY8DCtDaGls.KDlTtXchhZ.Mz-VPPyU4R", "***"),  # encrypted
        # a chosen password may contain spaces if nothing follows it in the query
        ("postgresql://h/d?user=u&password=p w", "postgresql://h/d?user=u&password=***"),
        ("x 'mysql://h/d?passwd=p w x' is wrong", "x 'mysql://h/d?passwd=***' is wrong"),
        ("postgresql://h/d?pass=p w: no (at x)", "postgresql://h/d?pass=***: no (at x)"),
        ("https://h/x?token=abc and then go on", "https://h/x?token=*** and then go on"),
        # in an address, the password ends at the @ even if the user's name sounds like a secret
        ("https://x-access-token:PW@h/me/x failed", "https://x-access-token:***@h/me/x failed"),
        ("x-access-token:PW12@h/me/x failed", "x-access-token:***@h/me/x failed"),
        # addresses whose path is the secret
        ("to https://hooks.slack.com/services/T0/B0/XX: no", "to https://hooks.slack.com/***: no"),
        ("https://discord.com/api/webhooks/12/aB-c?wait=true", "https://discord.com/api/webhooks/***?wait=true"),
        ("https://discordapp.com/api/v10/webhooks/12/aB-c", "https://discordapp.com/api/v10/webhooks/***"),
        (
            "https://me.webhook.office.com/webhookb2/1@2/IncomingWebhook/3/4",
            "https://me.webhook.office.com/webhookb2/***",
        ),
        ("https://outlook.office.com/webhook/1@2/IncomingWebhook/3/4", "https://outlook.office.com/webhook/***"),
        ("https://chat.me.org:8065/hooks/xxx1yyy", "https://chat.me.org:8065/hooks/***"),
        ("https://h/bot123456789:AAabcdefghijklmnopqrstuvwxyz0123456/x", "https://h/***/x"),  # Telegram
        (r"https:\/\/hooks.slack.com\/services\/T0\/B0\/XX", r"https:\/\/hooks.slack.com\/***"),
        (
            "host='hooks.slack.com': url: /services/T00000000/B00000000/abcdefghijklmnopqrstuvwx",
            "host='hooks.slack.com': url: /services/***",
        ),
        ("no answer at url: /api/webhooks/123456789012345678/aB-c (x)", "no answer at url: /api/webhooks/*** (x)"),
        ("https://me@x.org:P W@h/x", "https://me@x.org:***@h/x"),
        # signed addresses
        (
            "https://b/k?X-Amz-Credential=A%2FB&X-Amz-Security-Token=PW",
            "https://b/k?X-Amz-Credential=***&X-Amz-Security-Token=***",
        ),
        ("https://h/c/b?sv=2020&sp=r&sig=a%2Bc%3D", "https://h/c/b?sv=2020&sp=r&sig=***"),
        ("https://h/x?Expires=1&Signature=ab~&Key-Pair-Id=AP", "https://h/x?Expires=1&Signature=***&Key-Pair-Id=AP"),
    ],
)
def test_a_secret_is_recognised_by_its_form(text: str, left: str) -> None:
    assert masked(text) == left == masked(left)


# Each line contains the secret PW1x and keeps everything else.
BY_NAME = r"""
password: PW1x
Password:PW1x
passwd: PW1x
- {name: x, client_secret: PW1x, rank: 4}
apiKey: PW1x
api_key = "PW1x"
password=PW1x: wrong
user id=me,password=PW1x,host=h
<password>PW1x</password>
export MY_PASS=PW1x MY_PWD=PW1x MY_PAT=PW1x MY_TOKEN=PW1x DB_SECRET=PW1x X_KEY=PW1x
PGPASSWORD=PW1x psql
X-Api-Key: PW1x
curl -H 'X-Auth-Token: PW1x' https://h
PRIVATE-TOKEN: PW1x
x-vault-token: PW1x
Ocp-Apim-Subscription-Key: PW1x
Authorization: PW1x
Proxy-Authorization: Bearer PW1x
send: b'GET / HTTP/1.1\r\nAuthorization: Basic PW1x\r\nHost: h'
Authorization: Digest username="me", response="PW1x"
Cookie: a=PW1x; b=PW1x
Set-Cookie: sid=PW1x; Path=/
{"Authorization": "Bearer PW1x", "n": 1}
{'X-Api-Key': 'PW1x', 'n': 1}
{\"password\": \"PW1x\", \"n\": 1}
[('X-Api-Key', 'PW1x'), (b'authorization', b'Basic PW1x')]
--token PW1x --rank 4
--password='PW1x a' --rank 4
['--token', 'PW1x', '--rank', '4']
Server=h;Uid=me;Pwd=PW1x;Database=d
Server=h;User Id=me;Password=PW1x PW1x;Database=d
jdbc:sqlserver://h:1433;user=sa;password={PW1x;PW1x};encrypt=true
mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3DPW1x%3BX%3D1
DefaultEndpointsProtocol=https;AccountName=me;AccountKey=PW1x==;EndpointSuffix=core
https://h/?sid=PW1x&session=PW1x&pin=PW1x&sig=PW1x&key=PW1x&code=PW1x&n=1
//me:PW1x@h/x
me:PW1x@h:5432/db
rediss://PW1x@h
root:PW1x@tcp(127.0.0.1:3306)/db
token: PW1xPW1xPW1xPW1x
-----BEGIN RSA PRIVATE KEY-----PW1x-----END RSA PRIVATE KEY-----
""".strip().splitlines()


@pytest.mark.parametrize("text", BY_NAME)
def test_the_value_of_a_secret_s_name_is_hidden_whatever_is_between_them(text: str) -> None:
    left = masked(text)
    assert "***" in left and "PW1x" not in left and masked(left) == left
    kept = set(re.findall(r"rank|Database|encrypt|EndpointSuffix|psql|wrong|host|Host|n=1", text))
    assert all(word in left for word in kept)


TOKENS = """
hf_AbCdEfGhIjKlMnOpQrSt xoxb-123456789012-abcdef glsa_AbCdEfGhIjKlMnOpQrStUvWxYz012345_abcdef01
npm_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789 pypi-AgEIcHlwaS5vcmcCJDAwMDAw AIzaSyA0123456789abcdefghijklmnopqrstuv
AKIAIOSFODNN7EXAMPLE ASIAIOSFODNN7EXAMPLE ghp_0123456789abcdefghijABCDEFGHIJ456789
github_pat_11ABCDEFG0123456789_abc sk-proj-abcdefghijklmnop sk-ant-api03-abcdefghijk sk-0123456789abcdef0123
gsk_AbCdEfGhIjKlMnOpQrStUv glpat-AbCdEfGhIjKlMnOpQrSt dapi0123456789abcdef0123456789abcdef
hvs.AbCdEfGhIjKlMnOpQrStUvWx SG.AbCdEfGhIjKlMnOp.AbCdEfGhIjKlMnOp nvapi-AbCdEfGhIjKlMnOpQrSt
dckr_pat_AbCdEfGhIjKlMnOp sk_live_AbCdEfGhIj0123 123456789:AAabcdefghijklmnopqrstuvwxyz0123456
ya29.AbCdEfGhIjKlMnOpQrStUv
""".strip().splitlines()


def test_a_token_is_recognised_by_its_prefix() -> None:
    for token in (token for line in TOKENS for token in line.split()):
        for text in ("{} is wrong", "('{}')", "url%3D{}%26x", r"b'x\r\n{}\r\n'", "token {}, x"):
            assert masked(text.format(token)) == text.format("***")


@pytest.mark.parametrize("key", ["password", "sslpassword", "PWD", "access_token", "ApiKey", "sig", "SECRET", "token"])
def test_a_secret_behind_a_question_mark_is_hidden(key: str) -> None:
    assert masked(f"postgresql://host/db?user=me&{key}=s3cret&x=1") == f"postgresql://host/db?user=me&{key}=***&x=1"


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:///studies.db",
        "sqlite:////home/me:x@y/studies.db",
        "postgresql://me@host:5432/db?sslkey=/home/me/key",
        "ssh://git@host/x, git+ssh://git@host/x, git@host:x",
        "me@host: no",
        "http://host:5000 or http://[::1]:5000/x; else mail me@host.org",
        "C:/Users/me:x@y",
        "pad_token='<pad>', eos_token=<s>, token=5, key=topic, max_tokens=128",
        "the bearer of news; a secret: none; password: write %40 for @",
        "hf_model, ghp_x, sk-learn",
        "12 of 40 trials done · best macro-F1 0.812 (trial 3)",
        "token: 5 of 9, tokens: 12, pad_token_id: 0, key: value, pin: 4 digits, auth: none, session: 3 of 4",
        "study token: 3 trials; label 'password': 0.83, 'token': 0.12; ['password', 'billing', 'api_key']",
        '{"labels": ["password reset", "token"], "token": 0.5, "password": 1204}',
        "a cookie: chocolate; low-key: fine; basic knowledge; bearer instruments; no such option: --token",
        "learning_rate=0.00042, sort_key=name&primary_key=id, public_key=x; --set KEY=VALUE",
        "\x1b[1;36m--set\x1b[0m  \x1b[1;33mKEY=VALUE    \x1b[0m  Set a key",
        "sk-learn-tfidf-baseline-model, hf_hub_download, pypi-download-stats-classifier, npm_config_cache",
        "python:3.11@sha256:0123456789abcdef, mailto:me@x.org, 12:30@noon, git@github.com:me/x.git",
        "column: password: reset; row 5: secret: Joy, token: 12",
        "files.../../etc/passwd: a file's name has a slash; x/.secret: it isn't a file; ../passwd: isn't there",
        "labels: secret: 0.93, password: .8, key: 12%; F1 of password: 0.5; threshold of token: -1.5e-3",
        "secret: trial 0 on /home/me/base\ntoken: too few rows",
        "x.csv: column password: 'No. 1' in row 21: no row has it; label token: ab12cd34ef56gh78",
        "password: 0.93\npassword  0.83  120\nsecret: 120",
        "/home/me/hooks/train1.csv, hub-docs/webhooks/README.md, https://h/webhooks/README.md",
        "https://h/docs/webhooks, https://h/docs/webhooks/overview, //hooks.h/x",
        "trial-0003/adapter_model.safetensors, https://huggingface.co/a/b/resolve/main/tokenizer.json",
    ],
)
def test_text_without_secrets_stays_unchanged(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    "given", [f"http://me:{SECRET}@host/x", f"--storage=http://me:{SECRET}@host/x", f"model.token={SECRET}"]
)
def test_a_given_secret_is_hidden_however_it_is_written(given: str) -> None:
    remember(given)
    written = [
        SECRET,
        repr(SECRET),
        json.dumps(SECRET),
        "s3%2Fcr%20et%40%23%3F%3A%25%269",
        "s3%2Fcr+et%40%23%3F%3A%25%269",
    ]
    assert masked(f"x{SECRET}y, {written}").count("***") == 1 + len(written)
    assert masked_all({SECRET: [f"say {SECRET}", 5], f"{SECRET}{SECRET}": 1}) == {"***": ["say ***", 5], "*** (2)": 1}


@pytest.mark.parametrize(
    "secret", [SECRET, "p@s/ w%'\"\\ö&<>+$`!", "hunter", "s3 cr", "1234567", "a\nb=c d", "pässwört😀"]
)
def test_a_known_secret_is_hidden_in_every_spelling(secret: str) -> None:
    remember(f"postgresql://me:{quote(secret, safe='')}@h/d")
    login = base64.b64encode(f"me:{secret}".encode()).decode()
    ways = [secret, repr(secret), ascii(secret), repr(repr(secret)), repr(secret.encode()), shlex.quote(secret), login]
    ways += [json.dumps(secret), json.dumps(secret, ensure_ascii=False), json.dumps(json.dumps(secret))]
    ways += [quote(secret), quote(secret, safe=""), quote_plus(secret), quote(secret, safe=" +"), html.escape(secret)]
    ways += [quote(quote(secret, safe=""), safe=""), re.sub("%..", lambda two: two[0].lower(), quote(secret, safe=""))]
    ways += [str(markupsafe.escape(secret)), jinja2.utils.htmlsafe_json_dumps(secret)]
    for way in ways:
        left = masked(f"at={way}/x")
        assert "***" in left and left.startswith("at=") and left.endswith("/x") and len(left) <= 14, left


def test_a_known_secret_that_overlaps_another_is_hidden() -> None:
    remember("x://me:abcd efgh@h")
    remember("x://me:efgh@ijkl@h")
    assert masked("abcd efgh@ijkl, ab") == "***, ab"


def test_a_password_in_a_query_may_contain_characters_that_end_an_address() -> None:
    url = "postgresql://127.0.0.1:5432/studies?user=me&password=s3 c@r/et%9x"
    remember(url)
    assert masked(f"{url}: no") == "postgresql://127.0.0.1:5432/studies?user=me&password=***: no"
    assert masked(f"{url} says no") == "postgresql://127.0.0.1:5432/studies?user=me&password=*** says no"


def test_a_short_secret_or_a_number_does_not_blank_out_a_text() -> None:
    for secret in ("a", "0.5", "abc", "1234", "rank", "123456"):
        remember(f"postgresql://me:{secret}@h/d")
    text = "trial 1234: a ranking of abc, 0.5, 0.123456, 0.8123456, 1234567, rank_16, ranks"
    assert masked(text) == text and masked("rank is 123456!") == "*** is ***!"
    assert masked("x://me:a@h") == "x://me:***@h"


def test_json_keeps_its_keys_even_if_a_password_equals_one() -> None:
    for password in ("test", "macro_f1", "study"):
        remember(f"postgresql://me:{password}@h/d")
    plain = {"study": "a", "test": {"macro_f1": 0.5, "macro_f1_tuned": None}, "secret": 0.1, "password": "reset"}
    assert masked_all(plain) == plain
    assert masked_all({"hf_abcdefghijklmnopqrst": "test"}) == {"***": "***"}


def test_the_words_of_a_command_are_known() -> None:
    remember_words(["run", "--token", "s3cretA", "--set", "model.api_key=s3cretB", "--set=x.password=s3cretC"])
    remember_words(["--storage", "me:s3cretD@h/d", "--storage=Server=h;Pwd=s3cretE;x=1", "--seeds", "ordinary"])
    assert masked("s3cretA s3cretB s3cretC s3cretD s3cretE run ordinary") == "*** *** *** *** *** run ordinary"


def test_the_command_to_give_again_has_no_password_and_is_forgotten_after_it() -> None:
    with command_line.command(["run", "--set", "train.seed=1", "--storage", "postgresql://me:s3cret@h/d"]):
        found = command_line.this_command()
    assert found == "peftsweep run --set train.seed=1 --storage postgresql://me:***@h/d"
    assert command_line.this_command() == ""


def test_the_environments_secrets_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    names = (
        "PGPASSWORD HF_TOKEN MLFLOW_TRACKING_TOKEN OPENAI_API_KEY AWS_SECRET_ACCESS_KEY MY_PASS MY_PWD MY_PAT MY_SECRET"
    )
    for name in names.split():
        monkeypatch.setenv(name, f"{name} {SECRET}")
        assert masked(f"it says: {name} {SECRET}!") == "it says: ***!"
    monkeypatch.setenv("HTTPS_PROXY", "http://me:p4s5w0rd@proxy:3128")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:pass w0rd@host/d")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "disabled")
    monkeypatch.setenv("USE_AUTH_TOKEN", "disabled")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", __file__)
    monkeypatch.setenv("DESKTOP_SESSION", "ubuntu")
    monkeypatch.setenv("PWD", "/home/me/texts")
    monkeypatch.setenv("PUBLIC_KEY", "public")
    assert masked("p4s5w0rd, pass w0rd, disabled") == "***, ***, disabled"
    assert masked(text := f"{__file__} /home/me/texts/x ubuntu public") == text
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p4s5w0rd")
    assert masked(f"sent {base64.b64encode(b'me:p4s5w0rd').decode()}") == "sent ***"


def test_a_secret_word_is_hidden_only_as_a_whole_and_the_user_s_name_is_not() -> None:
    remember("postgresql://me:studies@host/db")
    remember("postgresql://postgres:postgres@host/db")
    assert masked("studies in mystudies; postgres") == "*** in mystudies; postgres"


def test_masking_takes_little_time_on_any_text() -> None:
    remember(r"x://me:p@s/\\\\@h")
    texts = ["a", "a-", "a://", "a://b:", "//a:", "a:b@", "?a=", "a=b;", "'a", "('a','b')", r"\'a", "'--a','b'", "<a>"]
    texts += [
        "bearer ",
        "cookie:a=",
        "password: ",
        "--a ",
        "ab%3a%2f",
        "eyJ",
        "a.b-",
        "-----BEGIN PRIVATE KEY-----",
        " ",
    ]
    texts += ["me:", "cookie:", "token:", "token=1", "password=", "password={ ", "password: ", 'password="', "x?pwd=a "]
    texts += ["'password':'", r"'password':\"", "'token':'", "\\", "-eyJ", "-eyJaaaaaaaa.", "%25", "%253A", "ssh://x/"]
    texts += ["a://x@", "a:b,", "\n", "- ", "--password ", "('password','", "<password>", "authorization:", "a:b:c@d "]
    texts += ["//hooks.", "//a/a/a/hook/", "X-A-", "SG.aaaaaaaaaaaaaaaa", "'a://b ", "Pwd=a;b", "&#0", "/", "=", "@"]
    for text in texts:
        began = time.process_time()
        masked(text * (40_000 // len(text)) + "@h")
        took = time.process_time() - began
        assert took < 0.5, (
            text
        )  # at most 0.04 s on an idle machine, 0.2 on a busy one; quadratic time would be a second
