"""Secrets are found in all their forms, and replaced at a cost that the request does not decide."""

from __future__ import annotations

import base64
import html
import json
import re
from functools import partial
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectrio.diagnostics import LONGEST_TEXT, shorten
from connectrio.idl.flyteidl2.connector import (
    GetTaskLogsResponse,
    GetTaskLogsResponseBody,
    GetTaskLogsResponseHeader,
    GetTaskMetricsResponse,
    Resource,
)
from connectrio.idl.flyteidl2.core import ExecutionMetricResult, TaskLog
from connectrio.idl.flyteidl2.logs.dataplane import LogLine
from connectrio.idl.google.protobuf import Struct
from connectrio.masking import SecretMask

KEY = (
    "-----BEGIN PRIVATE KEY-----\n"
    "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n"
    "q0dMx2eYbHkPzuQWvJdTgLr9sXn4mFcA\n"
    "-----END PRIVATE KEY-----\n"
)
SECRETS = [
    "s3cr3t-t0ken-value",
    "p\"a'ss\\w/ö+rd&12",
    '  a b%41c &amp; <x> \\n "q"é\n',
    "snow☃man😀😀",
    "ünïcödé pass",
    KEY,
]
FORMS = {
    "as it is": str,
    "stripped": str.strip,
    "repr": repr,
    "ascii": ascii,
    "JSON": json.dumps,
    "JSON in UTF-8": lambda text: json.dumps(text, ensure_ascii=False),
    "a URL's path": quote,
    "a URL's parameter": lambda text: quote(text, safe=""),
    "a form": quote_plus,
    "small hexadecimal digits": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "HTML": html.escape,
    "XML": quoteattr,
    "numbers in XML": lambda text: text.encode("ascii", "xmlcharrefreplace").decode(),
    "hexadecimal numbers in XML": lambda text: "".join(f"&#x{ord(character):X};" for character in text),
    "the repr of bytes": lambda text: repr(text.encode()),
    "the repr of a dict": lambda text: repr({"password": text}),
    "UTF-8 read as Latin-1": lambda text: text.encode().decode("latin-1"),
    "base64": lambda text: base64.b64encode(text.strip().encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "base64 in a URL": lambda text: quote(base64.b64encode(text.encode()).decode(), safe=""),
    "JSON in JSON": lambda text: json.dumps(json.dumps({"key": text})),
    "the repr of JSON": lambda text: repr(json.dumps([text]).encode()),
    "JSON in HTML": lambda text: html.escape(json.dumps(text)),
    "a URL in JSON with escaped slashes": lambda text: json.dumps(quote(text)).replace("/", r"\/"),
    "JSON in a URL": lambda text: quote(json.dumps(text)),
    "XML in a URL": lambda text: quote(html.escape(text)),
    "JSON with escaped ampersands": lambda text: json.dumps(html.escape(text)).replace("&", r"\u0026"),
    "a URL in XML": lambda text: html.escape("https://example.com/?a=b&key=" + quote(text, safe="&")),
    "a URL in JSON": lambda text: json.dumps({"url": "https://example.com/?key=" + quote(text)}),
}


def basic(user: str, text: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{text}".encode()).decode()


FORMS |= {f"basic authentication of {user!r}": partial(basic, user) for user in ("", "u", "us", "user")}


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form(secret, form):
    masked = SecretMask({"key": secret}).text(f"before {form(secret)} after")
    assert masked.startswith("before ")
    assert masked.endswith(" after")
    assert masked.count("[secret key]") == 1
    # quotes, what stands before the secret, and at most two characters on each side that base64 shares with it
    assert len(masked) < len("before [secret key] after") + 50


words = st.text("ab <>:/\n\té☃", max_size=20)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=4).map(str.strip).filter(lambda text: len(text) >= 4),
    st.sampled_from(sorted(FORMS)),
    words,
    words,
)
def test_whatever_the_secret_and_what_is_around_it(secret, name, before, after):
    masked = SecretMask({"k": secret}).text(f"{before} {FORMS[name](secret)} {after}")
    masked, marks = re.subn(r"\[secret( k)?\]", "\0", masked)
    assert marks
    assert secret not in masked
    assert FORMS[name](secret) not in masked


@given(st.text(), st.text(min_size=4, max_size=8))
def test_a_text_without_secrets_stays_as_it_is(text, secret):
    mask = SecretMask({"k": f"{secret}-d41d8cd98f00b204"})
    assert mask.text(text) == text


def test_each_line_of_a_secret_is_one():
    mask = SecretMask({"key": KEY, "account": json.dumps({"id": 7, "private_key": KEY})})
    assert mask.text(f"line 2: {KEY.splitlines()[1]}") == "line 2: [secret key]"
    # the account's own lines: those that its JSON has as \n
    assert SecretMask({"account": json.dumps({"key": KEY})}).text(KEY.splitlines()[2]) == "[secret account]"
    assert SecretMask({"key": "short\nand a longer one"}).text("short, and a longer one") == "short, [secret key]"


def test_what_is_no_secret():
    mask = SecretMask({"pin": "123", "padded": " ab ", "empty": "", "word": "1234"})
    assert mask.text("123 ab 1234") == "123 ab [secret word]"
    assert SecretMask({}).text("x") == "x"


def test_secrets_that_overlap_are_replaced_together():
    mask = SecretMask({"a": "abcdef", "b": "defghi", "c": "abcd"})
    assert mask.text("<abcdefghi> <abcd>") == "<[secret a]> <[secret c]>"
    assert mask.text("abcdefabcdef") == "[secret a][secret a]"


def test_what_stands_in_place_of_a_secret_is_not_searched():
    letters = "abcdefghij"
    values = [letter * (14 - number) for number, letter in enumerate(letters)]
    secrets = {f"{following} " * 10: value for value, following in zip(values, [*values[1:], "x"], strict=True)}
    assert SecretMask(secrets).text(f"{values[0]} {values[4]}") == "[secret] [secret]"
    assert SecretMask({"secret": "secret", "other": "hunter2"}).text("hunter2 secret") == "[secret other] [secret]"


def test_names_that_are_not_shown():
    secrets = {"n" * 65: "value-1", "n" * 64: "value-2", "has value-1": "value-3", "has%20value-1": "value-4"}
    mask = SecretMask(secrets)
    assert [mask.text(f"value-{number}") for number in range(1, 5)] == [
        "[secret]",
        f"[secret {'n' * 64}]",
        "[secret]",
        "[secret]",
    ]


# long texts


def test_a_long_text_is_cut_first():
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abc [… 1 characters …] efg"
    mask = SecretMask({"k": "hunter2"})
    assert mask.text("abcdefg", 6) == "abc [… 1 characters …] efg"
    masked = mask.text("x" * 500_000 + "hunter2" + "y" * 500_000)
    assert len(masked) == LONGEST_TEXT + len(" [… 934471 characters …] ")


@pytest.mark.parametrize("shift", range(9))
def test_a_secret_across_a_cut(shift):
    # the first part ends, and the last part begins, somewhere in a secret
    secret = "QWXYZJK"
    text = "a" * (20 - shift) + secret + "-" * 100 + secret + "z" * (20 - shift)
    masked = SecretMask({"k": secret}).text(text, 40)
    assert not set(secret) & set(masked)
    assert ("[secret k] [… " in masked) is ("…] [secret k]" in masked) is (1 <= shift <= 7)


def test_a_form_that_is_longer_than_the_text_may_be():
    masked = SecretMask({"k": "☃" * 40}).text(json.dumps("☃" * 40) + "." * 100, 40)
    assert masked == '"[secret k] [… 302 characters …] ' + "." * 20


# what is too much


@pytest.mark.parametrize(
    "secrets",
    [
        {"k": "x" * (64 * 1024 + 1)},
        {"k": "\n".join(f"line {number:5}" for number in range(301))},
        {f"k{number}": f"value {number}" for number in range(100)},
    ],
    ids=["characters", "lines", "secrets"],
)
def test_a_request_with_more_secrets_than_the_host_searches(secrets):
    mask = SecretMask(secrets)
    assert mask.text("anything").startswith("[text withheld: ")
    assert mask.text("x" * 100, 10).count("[text withheld: ") == 2
    assert mask.found_in(b"anything") is None


def test_a_key_with_its_certificates_and_an_account_are_not_too_much():
    def pem(name, lines):
        body = "\n".join(f"{name}{number:03}{'A' * 58}" for number in range(lines))
        return f"-----BEGIN {name}-----\n{body}\n-----END {name}-----\n"

    secrets = {"key": pem("KEY", 52), "chain": pem("ONE", 36) + pem("TWO", 36), "token": "x" * 8192, "user": "admin"}
    assert SecretMask(secrets).text("a fine text") == "a fine text"


def test_a_text_with_more_secrets_than_are_replaced():
    mask = SecretMask({"k": "hunter2"})
    assert mask.text("hunter2 " * 500) == "[secret k] " * 500
    assert mask.text("hunter2 " * 501).startswith("[text withheld: ")


def test_a_text_with_more_escapes_than_are_read():
    mask = SecretMask({"k": "hunter2"})
    text = "%68unter2 " + r"\x00" * 9_000
    assert mask.text(text) == "[secret k] " + r"\x00" * 9_000
    # each of these is read in several ways, one after the other
    assert not mask.text(r"\x26%26&amp;" * 1200).startswith("[text withheld: ")
    assert mask.text(r"\x26%26&amp;" * 4000, 100_000).startswith("[text withheld: ")


# messages


def test_the_state_of_a_job():
    resource = Resource(
        message="for hunter2",
        log_links=[TaskLog(name="hunter2", uri="https://example.com/?t=hunter%32", show_while_pending=True)],
        custom_info=Struct.from_dict(
            {"a": "hunter2", "hunter2": 1, "b": {"c": ["x", "hunter2", None, True, {"d": "hunter2"}]}, "e": ""}
        ),
    )
    links = resource.log_links
    SecretMask({"k": "hunter2"}).resource(resource)
    assert resource.message == "for [secret k]"
    assert resource.log_links == [
        TaskLog(name="[secret k]", uri="https://example.com/?t=[secret k]", show_while_pending=True)
    ]
    assert links[0].name == "hunter2"  # it may be the connector's own, for every job
    assert resource.custom_info.to_dict() == {
        "a": "[secret k]",
        "[secret k]": 1.0,
        "b": {"c": ["x", "[secret k]", None, True, {"d": "[secret k]"}]},
        "e": "",
    }


def test_log_lines_and_metrics():
    mask = SecretMask({"k": "hunter2"})
    body = GetTaskLogsResponseBody(lines=[LogLine(message="a hunter2")], results=["b hunter2"])
    masked = mask.log_lines(GetTaskLogsResponse(body=body))
    assert (masked.body.lines[0].message, masked.body.results) == ("a [secret k]", ["b [secret k]"])
    header = GetTaskLogsResponse(header=GetTaskLogsResponseHeader(token="7"))
    assert mask.log_lines(header) == header
    result = ExecutionMetricResult(metric="hunter2", data=Struct.from_dict({"value": "hunter2"}))
    masked = mask.metrics(GetTaskMetricsResponse(results=[result, ExecutionMetricResult(metric="m")]))
    assert [each.metric for each in masked.results] == ["[secret k]", "m"]
    assert masked.results[0].data.to_dict() == {"value": "[secret k]"}


def test_secrets_in_bytes():
    mask = SecretMask({"b": 'quo"te', "a": "hunter2", "c": "elsewhere"})
    assert mask.found_in(b'\x00\xff{"x": "quo\\"te hunter2 hunter2"}') == ["[secret a]", "[secret b]"]
    assert mask.found_in(b"another") == []
    assert mask.found_in(b"hunter2" + b"\\n" * 26_000) is None
    assert mask.found_in(b"hunter2 " * 501) is None
