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
    "part", ["token", "://", "a://b@", "password=", "password='", "authorization:", "bearer ", "\\", "'", "@", "-", " "]
)
def test_no_text_hangs(part):
    """A pattern that goes back over the text again and again would take minutes here."""
    mask_credentials(part * credentials._LONGEST)


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
