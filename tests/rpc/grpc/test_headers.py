"""gRPC's headers: time-outs, metadata, content types, status messages."""

from __future__ import annotations

import math
from base64 import b64encode

import pytest
from grpclib.const import Status
from grpclib.metadata import decode_grpc_message
from hypothesis import given
from hypothesis import strategies as st

from connectrio.rpc._grpc import (
    MetadataError,
    decode_metadata,
    decode_timeout,
    encode_metadata,
    encode_timeout,
    is_grpc_content_type,
)
from connectrio.rpc.status import MAX_STATUS_MESSAGE_SIZE, fit_status_message, status_headers, trailers_only

# content-type


@pytest.mark.parametrize(
    "value",
    [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc+json",  # the codec's own affair
        "APPLICATION/GRPC",
        "application/grpc;charset=utf-8",
        "application/grpc ; charset=utf-8",
        "application/grpc+proto;charset=utf-8",
    ],
)
def test_grpc_content_types(value: str):
    assert is_grpc_content_type(value)


@pytest.mark.parametrize(
    "value",
    [None, "", "application/grpc-web", "application/grpc-web+proto", "application/grpcx", "text/plain", "grpc"],
)
def test_other_content_types(value: str | None):
    assert not is_grpc_content_type(value)


# grpc-timeout


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1H", 3600),
        ("2M", 120),
        ("3S", 3),
        ("4m", 0.004),
        ("5u", 0.000_005),
        ("6n", 0.000_000_006),
        ("0S", 0),
        ("00000001S", 1),
        ("99999999H", 99_999_999 * 3600),
    ],
)
def test_timeouts_are_read(value: str, seconds: float):
    assert decode_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    ["", "S", "1", "1s", "1 S", " 1S", "1S ", "1S\n", "-1S", "+1S", "1.5S", "123456789S", "1SS", "1e3S", "²S"],
)
def test_malformed_timeouts_are_errors(value: str):
    with pytest.raises(ValueError, match="malformed grpc-timeout"):
        decode_timeout(value)


@given(st.floats(min_value=0, max_value=9e11))
def test_an_encoded_timeout_is_valid_and_never_longer(seconds: float):
    decoded = decode_timeout(encode_timeout(seconds))
    assert decoded <= seconds * (1 + 1e-9)
    # eight digits, of which a change of unit by 1,000 costs three
    assert decoded >= min(seconds, 99_999_999 * 3600) * (1 - 1e-5) - 1e-9


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (0.05, "50000000n"),
        (5, "5000000u"),
        (5000, "5000000m"),
        (500_000, "500000S"),
        (600_000_000, "10000000M"),
        (7_200_000_000, "2000000H"),
    ],
)
def test_a_timeout_is_in_the_smallest_unit_that_holds_it(seconds: float, value: str):
    assert encode_timeout(seconds) == value


def test_a_timeout_without_end_is_the_longest_there_is():
    assert encode_timeout(math.inf) == "99999999H"


# metadata


def encoded(value: bytes) -> str:
    return b64encode(value).decode()


def test_metadata_keeps_order_and_duplicates():
    metadata = decode_metadata([("a", "1"), ("b", "2"), ("a", "3")])
    assert list(metadata.items()) == [("a", "1"), ("b", "2"), ("a", "3")]


def test_transport_headers_are_not_metadata():
    headers = [(":path", "/"), ("te", "trailers"), ("content-type", "x"), ("user-agent", "y"), ("grpc-timeout", "1S")]
    assert list(decode_metadata([*headers, ("grpcx", "z"), ("te-x", "")])) == ["grpcx", "te-x"]


@given(st.binary(max_size=20))
def test_binary_metadata_padded_and_unpadded(value: bytes):
    padded = encoded(value)
    metadata = decode_metadata([("x-bin", padded), ("x-bin", padded.rstrip("="))])
    assert metadata.getall("x-bin") == [value, value]


@pytest.mark.parametrize("separator", [",", ", ", " ,"])
def test_binary_metadata_joined_by_commas(separator: str):
    joined = separator.join(encoded(value).rstrip("=") for value in (b"a", b"bc", b""))
    assert decode_metadata([("x-bin", joined)]).getall("x-bin") == [b"a", b"bc", b""]


@pytest.mark.parametrize("value", ["a", "!!!!", "abc$", "ab=c", "a b", "üü"])
def test_malformed_binary_metadata_is_an_error(value: str):
    with pytest.raises(ValueError, match="malformed binary metadata 'x-bin'"):
        decode_metadata([("x-bin", value)])


def test_text_metadata_may_hold_anything():
    assert decode_metadata([("x", "a,b=\xff ü")])["x"] == "a,b=\xff ü"


# status


def message_of(headers: list[tuple[str, str]]) -> str:
    return dict(headers)["grpc-message"]


def test_a_trailers_only_response():
    assert trailers_only(Status.NOT_FOUND, "gone") == [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", "5"),
        ("grpc-message", "gone"),
    ]


@pytest.mark.parametrize("message", [None, ""])
def test_no_message_is_no_header(message: str | None):
    assert status_headers(Status.OK, message) == [("grpc-status", "0")]


@given(st.text(max_size=100))
def test_a_status_message_is_printable_ascii_and_comes_back(message: str):
    encoded_message = dict(status_headers(Status.INTERNAL, message)).get("grpc-message", "")
    assert all(" " <= character <= "~" for character in encoded_message)
    assert decode_grpc_message(encoded_message) == message.encode("utf-8", "replace").decode()


def test_surrogates_in_a_status_message_are_escaped():
    assert message_of(status_headers(Status.INTERNAL, "a\ud800b")) == "a\\ud800b"


def test_control_characters_in_a_status_message_are_encoded():
    assert message_of(status_headers(Status.INTERNAL, "a\x00\r\n\x7fb%")) == "a%00%0D%0A%7Fb%25"


@pytest.mark.parametrize("text", ["x", "ü", "\U0001f40d", "%", "\0", "\ud800", "aü"])
def test_a_huge_status_message_is_cut_and_marked(text: str):
    encoded_message = message_of(status_headers(Status.INTERNAL, text * 20_000))
    assert MAX_STATUS_MESSAGE_SIZE - 20 <= len(encoded_message) <= MAX_STATUS_MESSAGE_SIZE
    decoded = decode_grpc_message(encoded_message)
    assert decoded.endswith(" characters in all]")
    assert "\N{REPLACEMENT CHARACTER}" not in decoded  # cut between characters


@given(st.text(), st.integers(60, 200))
def test_a_message_fits(message: str, size: int):
    fitted = fit_status_message(message, size)
    assert len(dict(status_headers(Status.INTERNAL, fitted)).get("grpc-message", "")) <= size


def test_a_message_that_fits_is_not_touched():
    assert fit_status_message("x" * MAX_STATUS_MESSAGE_SIZE) == "x" * MAX_STATUS_MESSAGE_SIZE


# metadata that is sent


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Upper",
        "a b",
        "a\n",
        "a:b",
        ":path",
        "klíč",
        "a\0",
        "te",
        "content-type",
        "user-agent",
        "grpc-timeout",
        "grpc-status",
        "grpc-anything",
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
        "host",
        "content-length",
        5,
        b"bytes",
        None,
    ],
)
def test_names_that_cannot_be_sent(name):
    with pytest.raises(MetadataError, match=r"the metadata name .* cannot be sent") as raised:
        encode_metadata([("fine", "x"), (name, "secret")])
    assert repr(name) in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "value", ["a\nb", "a\rb", "a\0b", "tab\there", "žluť", "\xe9", "😀", "\x7f", b"bytes", 1, None]
)
def test_values_that_cannot_be_sent(value):
    with pytest.raises(MetadataError, match=r"the .*metadata 'key' cannot be sent") as raised:
        encode_metadata({"key": value})
    assert value is None or repr(value) not in str(raised.value), "it may be a secret"


@pytest.mark.parametrize("value", ["text", 1, None, bytearray(b"x")])
def test_binary_values_that_cannot_be_sent(value):
    with pytest.raises(MetadataError, match="'key-bin' cannot be sent as"):
        encode_metadata({"key-bin": value})


def test_what_can_be_sent():
    """Names and values as grpcio takes them; empty values are taken by all."""
    pairs = [("a", ""), ("a_b.c-9", " ~"), ("a", " spaces around "), ("raw-bin", b"\0\xff"), ("raw-bin", b"")]
    sent = encode_metadata(pairs)
    assert sent == [("a", ""), ("a_b.c-9", "~"), ("a", "spaces around"), ("raw-bin", "AP8"), ("raw-bin", "")]
    assert list(decode_metadata(sent).items())[-2:] == pairs[-2:]
