"""Texts that protobuf can carry."""

from __future__ import annotations

from typing import Any

from connectrio.literals.describe import describe_value
from connectrio.literals.errors import LiteralError, mismatch

__all__ = ["encodable"]


def encodable(text: Any) -> str:
    """`text`, if it is a str that UTF-8 has a form for.

    A text with lone surrogates, which undecodable file names turn into, would only fail when the answer is sent.

    :raises LiteralError: it is not
    """
    if not isinstance(text, str):
        raise mismatch("str", describe_value(text))
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise LiteralError(f"{describe_value(text)} is no valid Unicode text: {error.reason}") from None
    return text
