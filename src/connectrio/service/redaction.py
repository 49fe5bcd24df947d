"""Keeping secrets out of logs and status messages."""

from __future__ import annotations

from connectrio.idl.flyteidl2.core import Connection

__all__ = ["redact", "secrets_in"]

# a shorter value is a word of its own; replacing it would garble the text and protect nothing
MIN_SECRET_LENGTH = 4


def redact(text: str, connection: Connection | None) -> str:
    """`text` without the values of the connection's secrets, plain or as `repr` writes them."""
    if connection is None:
        return text
    for name, value in sorted(connection.secrets.items(), key=lambda item: -len(item[1])):
        if len(value) >= MIN_SECRET_LENGTH:
            for form in (value, repr(value)[1:-1]):
                text = text.replace(form, f"[secret {name}]")
    return text


def secrets_in(data: bytes, connection: Connection | None) -> list[str]:
    """The names of the connection's secrets whose values are in `data`."""
    if connection is None:
        return []
    values = {name: value.encode() for name, value in connection.secrets.items() if len(value) >= MIN_SECRET_LENGTH}
    return sorted(name for name, value in values.items() if value in data)
