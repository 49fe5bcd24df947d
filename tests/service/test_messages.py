"""Status messages fit what clients let through."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from grpclib import GRPCError
from grpclib.metadata import encode_grpc_message
from hypothesis import given
from hypothesis import strategies as st

from connectrio.rpc.status import MAX_STATUS_MESSAGE_SIZE, fit_status_message
from service.harness import OPERATIONS, Service, failing


@pytest.mark.parametrize("character", ["x", "%", "\n", "é", "漢", "🚀", "\udcff"])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_long_error_is_cut_and_marked(operation, character):
    service = Service(failing(lambda: ValueError(character * 20_000)))
    with pytest.raises(GRPCError) as caught:
        await service.call(operation)
    message = caught.value.message
    assert message.startswith("failed to ")
    assert message.endswith(" characters in all]")
    assert MAX_STATUS_MESSAGE_SIZE - 12 <= len(encode_grpc_message(message)) <= MAX_STATUS_MESSAGE_SIZE


async def test_a_short_one_is_left_alone():
    assert fit_status_message("x" * MAX_STATUS_MESSAGE_SIZE) == "x" * MAX_STATUS_MESSAGE_SIZE
    assert fit_status_message("🚀" * (MAX_STATUS_MESSAGE_SIZE // 12)) == "🚀" * (MAX_STATUS_MESSAGE_SIZE // 12)
    assert fit_status_message("x" * (MAX_STATUS_MESSAGE_SIZE + 1)).endswith("6145 characters in all]")


class Long(str):
    """A text of which only a part may be looked at."""

    __slots__ = ()

    def __getitem__(self, key):
        part = super().__getitem__(key)
        assert len(part) < 10_000
        return part

    def __iter__(self, *_):
        raise AssertionError("it goes through all characters")

    encode = translate = isascii = isprintable = replace = __iter__


def test_of_a_message_as_long_as_it_likes_only_the_beginning_is_looked_at():
    """Counting the bytes of 200 MB would take a minute, and the event loop with it."""
    assert fit_status_message(Long("é" * 100_000_000)).endswith(" [truncated: 100000000 characters in all]")


def test_lone_surrogates_are_escaped():
    assert fit_status_message("no file \udcff") == "no file \\udcff"


@given(text=st.text(st.characters(), max_size=400), size=st.integers(100, 300))
def test_the_encoded_form_fits(text, size):
    fitted = fit_status_message(text, size)
    encoded = encode_grpc_message(fitted)
    assert len(encoded) <= size
    assert unquote(encoded, errors="strict") == fitted
    escaped = text.encode("utf-8", "backslashreplace").decode()
    kept, marker, _ = fitted.partition(" [truncated: ")
    assert fitted == escaped if not marker else escaped.startswith(kept)
