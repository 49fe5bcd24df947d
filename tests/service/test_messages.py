"""Status messages fit what clients let through."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from grpclib import GRPCError
from grpclib.metadata import encode_grpc_message
from hypothesis import given
from hypothesis import strategies as st

from connectrio.service.errors import MAX_MESSAGE_BYTES, fit_message
from service.harness import OPERATIONS, Service, failing


@pytest.mark.parametrize("character", ["x", "%", "\n", "é", "漢", "🚀", "\udcff"])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_long_error_is_cut_and_marked(operation, character):
    service = Service(failing(lambda: ValueError(character * 20_000)))
    with pytest.raises(GRPCError) as caught:
        await service.call(operation)
    message = caught.value.message
    assert message.startswith("failed to ")
    assert message.endswith(" characters in all, see the host's log]")
    assert MAX_MESSAGE_BYTES - 12 <= len(encode_grpc_message(message)) <= MAX_MESSAGE_BYTES


async def test_a_short_one_is_left_alone():
    assert fit_message("x" * MAX_MESSAGE_BYTES) == "x" * MAX_MESSAGE_BYTES
    assert fit_message("🚀" * (MAX_MESSAGE_BYTES // 12)) == "🚀" * (MAX_MESSAGE_BYTES // 12)
    assert fit_message("x" * (MAX_MESSAGE_BYTES + 1)).endswith("6145 characters in all, see the host's log]")


def test_lone_surrogates_are_escaped():
    assert fit_message("no file \udcff") == "no file \\udcff"


@given(text=st.text(st.characters(), max_size=400), size=st.integers(100, 300))
def test_the_encoded_form_fits(text, size):
    fitted = fit_message(text, size)
    encoded = encode_grpc_message(fitted)
    assert len(encoded) <= size
    assert unquote(encoded, errors="strict") == fitted
    escaped = text.encode("utf-8", "backslashreplace").decode()
    kept, marker, _ = fitted.partition(" [truncated: ")
    assert fitted == escaped if not marker else escaped.startswith(kept)
