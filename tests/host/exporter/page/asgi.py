"""A client that calls an ASGI application without a server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import anyio


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def page(self) -> Page:
        return Page(self.body.decode())


class Page(HTMLParser):
    """What a browser makes of HTML: its elements, and the text that a person reads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self._texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_data(self, data):
        self._texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._texts).split())

    @property
    def links(self) -> list[str]:
        return [value for tag, name, value in self.attributes if (tag, name) == ("a", "href")]


def scope_of(target: str, method: str = "GET") -> dict[str, object]:
    parts = urlsplit(target)
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": unquote(parts.path), "raw_path": parts.path.encode(), "root_path": "",
        "query_string": parts.query.encode(), "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8080),
    }  # fmt: skip


async def call(app, target: str, method: str = "GET") -> Answer:
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope_of(target, method), receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))


@asynccontextmanager
async def updates(app, target: str) -> AsyncIterator[Updates]:
    """Open a stream of server-sent events; it ends with the block."""
    send_stream, receive_stream = anyio.create_memory_object_stream(1000)

    async def receive():
        await anyio.sleep_forever()

    async def send(message):
        if message["type"] == "http.response.body" and message["body"]:
            send_stream.send_nowait(message["body"])

    async with send_stream, receive_stream, anyio.create_task_group() as tasks:
        tasks.start_soon(app, scope_of(target), receive, send)
        yield Updates(receive_stream)
        tasks.cancel_scope.cancel()


class Updates:
    def __init__(self, stream) -> None:
        self._stream = stream

    async def next(self) -> dict[str, object]:
        event = await self._stream.receive()
        assert event.startswith(b"data: ")
        assert event.endswith(b"\n\n")
        assert event.count(b"\n") == 2
        return json.loads(event[6:])

    @property
    def waiting(self) -> int:
        """How many were sent and not read."""
        return self._stream.statistics().current_buffer_used
