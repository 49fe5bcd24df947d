"""Requests to the exporter, and responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

import msgspec

from connectrio.diagnostics import encodable

__all__ = ["Request", "Response", "as_json", "plain"]


@dataclass(frozen=True)
class Request:
    """A request.

    :ivar path: as it was sent, percent-encoded
    :ivar query: what follows the path's question mark
    :ivar headers: their names are in lower case
    :ivar client: its (host, port)
    """

    method: str
    path: str
    query: str
    headers: Sequence[tuple[bytes, bytes]] = ()
    http_version: str = "1.1"
    scheme: str = "http"
    client: tuple[str, int] | None = None

    def header(self, name: bytes) -> str:
        """Return the values of a header, with commas between them; "" if there is none."""
        return b",".join(value for each, value in self.headers if each == name).decode("latin-1")


@dataclass(frozen=True)
class Response:
    """A response.

    :ivar headers: in addition to those that each response has
    """

    status: int
    body: bytes
    content_type: str
    headers: Sequence[tuple[str, str]] = ()


def plain(status: int, text: str, *headers: tuple[str, str]) -> Response:
    """Return a response for people."""
    body = f"{status} {HTTPStatus(status).phrase}: {text}\n".encode()
    return Response(status, body, "text/plain; charset=utf-8", headers)


def as_json(status: int, document: object, *headers: tuple[str, str]) -> Response:
    """Return a response for programs. What UTF-8 cannot encode, as parts of file names, becomes question marks."""
    try:
        body = msgspec.json.encode(document)
    except UnicodeEncodeError:
        body = msgspec.json.encode(encodable(msgspec.to_builtins(document)))
    return Response(status, body, "application/json", headers)
