"""Credentials in the texts of foreign errors."""

from __future__ import annotations

import pytest

from connectrio.masking import credentials
from connectrio.masking.credentials import describe_error, format_traceback, mask_credentials


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("", ""),
        ("No module named 'snowflake'", "No module named 'snowflake'"),
        # URLs
        ("postgresql+psycopg://me:pw@db:5432/jobs", "postgresql+psycopg://***@db:5432/jobs"),
        ("cannot parse 'mysql://me:p@ss/w:rd@db/jobs', sorry", "cannot parse 'mysql://***@db/jobs', sorry"),
        ("https://ghp_token@github.com/x and redis://:pw@cache", "https://***@github.com/x and redis://***@cache"),
        ("[https://a:b@c,https://d:e@f]", "[https://***@f]"),
        ("https://example.org/a?b=c and me@example.org", "https://example.org/a?b=c and me@example.org"),
        # names
        ("host=db password=s3cr3t dbname=jobs", "host=db password=*** dbname=jobs"),
        ("connect(user='me', password='it\\'s', host='db')", "connect(user='me', password='***', host='db')"),
        ('{"api_key": "abc", "region": "eu"}', '{"api_key": "***", "region": "eu"}'),
        ("{'client-secret-value' : 'a b', 'x': 1}", "{'client-secret-value' : '***', 'x': 1}"),
        ("AWS_SECRET_ACCESS_KEY=abc/def+ghi", "AWS_SECRET_ACCESS_KEY=***"),
        ("PGPASSWORD=abc psql", "PGPASSWORD=*** psql"),
        ("Passwd: abc\nuser: me", "Passwd: ***\nuser: me"),
        ("?sv=1&sig=abc%2F", "?sv=1&sig=***"),
        ("token=", "token="),
        ('password="never closed', 'password="***"'),
        ("password authentication failed for user me", "password authentication failed for user me"),
        # headers
        ("Authorization: Basic bWU6cHc=\nAccept: x", "Authorization: ***\nAccept: x"),
        ("{'authorization': 'Bearer abc.def', 'x': 'y'}", "{'authorization': '***', 'x': 'y'}"),
        ("got Bearer eyJhbGciOi.J9_-= for x", "got Bearer *** for x"),
        ("the bearer token has expired", "the bearer token has expired"),
        ("Cookie: session=abc", "Cookie: ***"),
        ("sent Basic dXNlcjpodW50ZXIy to x", "sent Basic *** to x"),
        (
            "HTTP Basic Authentication is required, basic HTTP/1.1",
            "HTTP Basic Authentication is required, basic HTTP/1.1",
        ),
        # connection strings
        ("EndpointSuffix=x;AccountKey=c2Vj+Cg==", "EndpointSuffix=x;AccountKey=***"),
        ("Endpoint=sb://x/;SharedAccessKey=c2Vj=", "Endpoint=sb://x/;SharedAccessKey=***"),
        ("server=h;password=my pass word;user=sa", "server=h;password=***;user=sa"),
        ("Pwd={my; pass word};user=sa", "Pwd=***;user=sa"),
        ("host=db password=s3cr3t dbname=jobs; again", "host=db password=*** dbname=jobs; again"),
        ("smtp_pass=abc x, bypassed=1", "smtp_pass=*** x, bypassed=1"),
        ("Error 1045: admin:hun@ter2@tcp(10.0.0.1:3306)/db", "Error 1045: ***@tcp(10.0.0.1:3306)/db"),
        ("'admin:hunter2@db:5432'", "'***@db:5432'"),
        ("scott/tiger@//db:1521/x, scott/tiger@10.0.0.1", "***@//db:1521/x, ***@10.0.0.1"),
        ("postgres://me:p w@db/x", "postgres://***@db/x"),
        ("http://db:8080, mail me@example.org", "http://db:8080, mail me@example.org"),
        ("a/b:1.2@sha256:abc, actions/checkout@v4.1", "a/b:1.2@sha256:abc, actions/checkout@v4.1"),
        # options and sentences
        ("psql --password hunter2 -h db", "psql --password *** -h db"),
        ("['psql', '--password', 'hunter 2', '-h']", "['psql', '--password', '***', '-h']"),
        ("use --password or --token to log in", "use --password or --token to log in"),
        ("FATAL: password 'hunter 2' rejected", "FATAL: password '***' rejected"),
        ("No module named 'secrets', no secret 'db'", "No module named 'secrets', no secret 'db'"),
        # tokens of services
        ("bad key sk-proj-abcdef1234567890", "bad key ***"),
        ("'ghp_abcdefghijklmnopqrstuvwxyz012345'", "'***'"),
        ("github_pat_11ABCDEFG0abcdefghijkl_xyz", "***"),
        ("xoxb-123-456-abc and AKIAIOSFODNN7EXAMPLE", "*** and ***"),
        ("bad eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.c2ln.", "bad ***."),
        ("https://hooks.slack.com/services/T0/B0/abc", "https://hooks.slack.com/services/***"),
        ("task-manager-1, risk-free-1234567890123", "task-manager-1, risk-free-1234567890123"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,X\n\nMII/\nab==\n-----END RSA PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----",
        ),
        # pydantic
        (
            "password\n  String should be longer [type=string_too_short, input_value='hunter2', input_type=str]",
            "password\n  String should be longer [type=string_too_short, input_value='***', input_type=str]",
        ),
        ("[input_value={'pw': 'a', 'b...}, input_type=dict]", "[input_value=***, input_type=dict]"),
    ],
)
def test_what_is_masked(text, masked):
    assert mask_credentials(text) == masked


def test_a_long_text_is_cut():
    masked = mask_credentials("x" * 100_000 + " password=s3cr3t")
    assert masked.startswith("x" * credentials._LONGEST + "… [cut: ")
    # cut in the middle of a quoted value, which stays masked
    masked = mask_credentials("x " * (credentials._LONGEST // 2 - 8) + "password='s3 cr3t and more'")
    assert "s3" not in masked


@pytest.mark.parametrize(
    "part",
    [
        *("token", "://", "a://b@", "password=", "password='", "authorization:", "bearer ", "\\", "'", "@", "-", " "),
        *("input_value=", "-----BEGIN PRIVATE KEY-----", "eyJ-", "eyJaaaaaaaa.", "sk-", "basic a", "a:", " a/", "a."),
        *("://:", "://a: ", " --", " --password", "password ", "password 'a", "; password=a b ", "a b ", "pwd={", "{"),
    ],
)
def test_no_text_hangs(part, monkeypatch):
    """A pattern that goes back over the text again and again would take minutes here."""
    monkeypatch.setenv("SOME_TOKEN", part * 1000)
    mask_credentials(part * credentials._LONGEST)


def test_secrets_of_the_environment(monkeypatch):
    for name, value in {
        "DB_PASSWORD": "a\\b c'def\n",
        "VENDOR_TOKEN": "hunter22",
        "LONGER_KEY": "hunter2233",
        "SHORT_SECRET": "jobs",
        "KEYBOARD": "qwertz keys",
        "PWD": "/home/jobs/here",
    }.items():
        monkeypatch.setenv(name, value)
    masked = mask_credentials("x 'a\\\\b c'def' a%5Cb%20c%27def hunter2233 hunter22 jobs qwertz keys /home/jobs/here")
    assert masked == (
        "x '${DB_PASSWORD}' ${DB_PASSWORD} ${LONGER_KEY} ${VENDOR_TOKEN} jobs qwertz keys /home/jobs/here"
    )
    # across the place where the text is cut
    masked = mask_credentials("x" * (credentials._LONGEST - 4) + "hunter22")
    assert "hunt" not in masked


def test_an_error_that_has_no_text():
    class MuteError(Exception):
        def __str__(self):
            raise ValueError("no")

    assert describe_error(MuteError()) == "MuteError: (ValueError in the error's own text)"
    assert describe_error(KeyError()) == "KeyError"
    assert "MuteError" in format_traceback(MuteError())


def test_a_traceback_is_masked():
    try:
        raise ConnectionError("token=t0k3n") from ValueError("redis://:s3cr3t@cache")
    except ConnectionError as error:
        text = format_traceback(error)
    assert "t0k3n" not in text
    assert "s3cr3t" not in text
    assert "ConnectionError: token=***" in text


def test_a_traceback_that_cannot_be_written():
    class OddError(Exception):
        @property
        def __notes__(self):
            raise RecursionError

    error = ValueError()
    for _ in range(5000):
        error = ExceptionGroup("x", [error])
    assert format_traceback(error)
    assert "OddError" in format_traceback(OddError())
