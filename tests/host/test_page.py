"""How the exporter runs the status page, an ASGI application, and who may see it."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
from contextlib import AsyncExitStack, asynccontextmanager, closing
from types import SimpleNamespace

import anyio
import pytest
from structlog.testing import capture_logs

from connectrio.connector.registry import Registry
from connectrio.diagnostics import Repeats
from connectrio.host.exporter import _asgi, _connection, _http, serve_exporter
from connectrio.host.exporter._access import is_private
from connectrio.host.host import Host
from connectrio.host.settings import HostSettings
from connectrio.rpc.tls import ServerTLS
from host.test_exporter import HOUR, PATIENCE, View, exporter, get, read_to_the_end, speak
from rpc.kit.certificates import STRANGERS, Pki, issue

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
PROMETHEUS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
PAGE = b"<!doctype html><title>status</title>"


class Application:
    """An ASGI application whose paths are the methods of this class. It has what it was called with in `scopes`."""

    def __init__(self, source=None):
        self.source = source
        self.scopes = []
        self.ended = anyio.Event()

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        name = scope["path"].strip("/") or "status"
        await getattr(self, name.replace("/", "_"))(receive, send)

    async def status(self, receive, send):
        await respond(send, PAGE, (b"content-type", b"text/html"))

    async def parts(self, receive, send):
        await start(send, 200, (b"content-length", b"6"))
        await body(send, b"abc", more=True)
        await body(send, b"def")

    async def events(self, receive, send):
        try:
            await start(send, 200, (b"content-type", b"text/event-stream"))
            await body(send, b"data: first\n\n", more=True)
            await anyio.sleep_forever()
        finally:
            self.ended.set()

    async def flood(self, receive, send):
        try:
            await start(send, 200)
            while True:
                await body(send, b"x" * 1_000_000, more=True)
        finally:
            self.ended.set()

    async def two_events(self, receive, send):
        await start(send, 200)
        await body(send, b"one", more=True)
        await body(send, b"", more=True)
        await body(send, b"two")

    async def reads(self, receive, send):
        message = await receive()
        assert message == {"type": "http.request", "body": b"", "more_body": False}
        with anyio.move_on_after(0.01) as waiting:
            await receive()
        assert waiting.cancelled_caught
        await respond(send, b"read")

    async def raises(self, receive, send):
        raise RuntimeError("no page")

    async def breaks(self, receive, send):
        await start(send, 200)
        await body(send, b"some", more=True)
        raise RuntimeError("no more")

    async def silent(self, receive, send):
        """Send nothing."""

    async def twice(self, receive, send):
        await start(send, 200)
        await start(send, 200)

    async def early(self, receive, send):
        await body(send, b"early")

    async def bad_header(self, receive, send):
        await respond(send, b"", (b"a b", b"c\nd"))

    async def strange(self, receive, send):
        await send({"type": "websocket.accept"})

    async def hangs(self, receive, send):
        await anyio.sleep_forever()


async def start(send, status, *headers):
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def body(send, content, *, more=False):
    await send({"type": "http.response.body", "body": content, "more_body": more})


async def respond(send, content, *headers):
    await start(send, 200, *headers)
    await body(send, content)


@pytest.fixture
def application(monkeypatch):
    """The application in place of the status page."""
    made = Application()
    page = SimpleNamespace(make_app=lambda source: made)
    monkeypatch.setattr("connectrio.host.exporter._pages.import_module", lambda name: page)
    return made


def request(path: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "host: localhost", *headers, "\r\n"]).encode()


@asynccontextmanager
async def streaming(address, path="/events"):
    """Yield a connection that has received the first part of a stream."""
    async with await anyio.connect_tcp(*address) as stream:
        await stream.send(request(path))
        received = b""
        with anyio.fail_after(PATIENCE):
            while b"data: first" not in received:
                received += await stream.receive()
        yield stream


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("text/plain;q=0.5, text/html;q=0.6", True),
        ("TEXT/HTML; charset=utf-8", True),
        ("*/*", False),
        ("", False),
        (PROMETHEUS, False),
        ("text/html;q=0", False),
        ("text/html;q=0.4, text/plain", False),
        ("text/html;q=0.4, application/openmetrics-text", False),
        ("text/*", False),
    ],
)
async def test_who_gets_the_page_at_the_root(application, accept, is_page):
    async with exporter(View()) as address:
        root = await get(address, "/", accept=accept)
        assert (root.body == PAGE, b"# TYPE" in root.body) == (is_page, not is_page)
        assert (await get(address, "/status", accept=accept)).body == PAGE
        assert b"# TYPE" in (await get(address, "/metrics", accept=accept)).body


async def test_without_a_page(application):
    async with exporter(View(), HostSettings(page=False)) as address:
        assert b"# TYPE" in (await get(address, "/", accept=BROWSER)).body
        for path in ("/status", "/events", "/connectors/toy", "/favicon.ico"):
            refused = await get(address, path)
            assert (refused.status, b"--no-page" in refused.body) == (404, True)
        refused = await get(address, "/api/jobs")
        assert refused.status == 404
        assert "--no-page" in refused.json["error"]
    assert application.scopes == []


async def test_what_an_application_is_told(application):
    async with exporter(View()) as address:
        await speak(address, request("/a%20b%2f?q=%41&x", "x-one: 1", "connection: close"))
    [scope] = application.scopes
    assert scope["type"] == "http"
    assert (scope["method"], scope["scheme"], scope["http_version"]) == ("GET", "http", "1.1")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b/", b"/a%20b%2f", b"q=%41&x")
    assert (b"x-one", b"1") in scope["headers"]
    assert scope["client"][0] == "127.0.0.1"


async def test_the_headers_of_what_not_everyone_may_see(application):
    async with exporter(View()) as address:
        for path in ("/status", "/api/status"):
            headers = (await get(address, path)).headers
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert not [name for name in headers if name.startswith("access-control")]


async def test_an_applications_own_headers_come_first(application):
    async def cached(receive, send):
        await respond(send, b"", (b"Cache-Control", b"max-age=60"), (b"connection", b"upgrade"))

    application.cached = cached
    async with exporter(View()) as address:
        received = await speak(address, request("/cached", "connection: close"))
    assert received.count(b"cache-control") == received.count(b"Cache-Control") + 1 == 1
    assert b"max-age=60" in received
    assert b"upgrade" not in received


async def test_a_response_in_parts_keeps_the_connection(application):
    async with exporter(View()) as address:
        received = await speak(address, request("/parts") + request("/reads", "connection: close"))
    assert received.count(b"HTTP/1.1 200") == 2
    assert b"abcdef" in received
    assert received.endswith(b"read")


async def test_a_stream_is_sent_in_chunks(application):
    async with exporter(View()) as address:
        received = await speak(address, request("/two_events"))
        assert (await get(address, "/two_events")).body == b"onetwo"
    assert b"transfer-encoding: chunked" in received.lower()
    assert received.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_a_stream_for_http_1_0_ends_with_the_connection(application):
    async with exporter(View()) as address:
        received = await speak(address, request("/two_events", version="1.0"))
    assert received.endswith(b"\r\n\r\nonetwo")
    assert b"chunked" not in received


@pytest.mark.parametrize("path", ["/status", "/parts", "/events", "/two_events"])
async def test_head(application, path):
    async with exporter(View()) as address:
        received = await speak(address, request(path, method="HEAD"), request("/healthz", "connection: close"))
    assert received.startswith(b"HTTP/1.1 200")
    rest = received.partition(b"\r\n\r\n")[2]
    assert rest.startswith(b"HTTP/1.1 200")
    assert b'"state"' in rest
    assert b"data: first" not in received


async def test_only_get_and_head(application):
    async with exporter(View()) as address:
        for path in ("/status", "/api/jobs", "/"):
            refused = await get(address, path, method="POST", accept=BROWSER)
            assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
    assert application.scopes == []


async def test_a_body_is_not_read(application):
    async with exporter(View()) as address:
        received = await speak(address, request("/reads", "content-length: 9"), b"123")
    assert received.endswith(b"read")
    assert b"connection: close" in received.lower()


@pytest.mark.parametrize("path", ["/raises", "/silent", "/twice", "/early", "/bad_header", "/strange", "/no_such"])
async def test_a_bad_application_ends_one_request(application, path):
    with capture_logs() as logs:
        async with exporter(View()) as address:
            failed = await get(address, path)
            assert (failed.status, failed.body) == (
                500,
                b"500 Internal Server Error: the request failed; see the host's log\n",
            )
            assert (await get(address, "/status")).body == PAGE
    [line] = [each for each in logs if each["log_level"] == "error"]
    assert line["path"] == path


async def test_an_error_that_each_request_meets_is_logged_once_a_minute(monkeypatch):
    class Broken(View):
        async def report(self):
            raise RuntimeError("no report")

    repeats = Repeats(60.0, lambda: now)
    monkeypatch.setattr("connectrio.host.exporter._failed.Repeats", lambda seconds: repeats)
    now = 0.0
    with capture_logs() as logs:
        async with exporter(Broken()) as address:
            for target in ("/api/status", "/api/jobs", "/api/status"):
                assert (await get(address, target)).status == 500
            now = 61.0
            await get(address, "/api/status")
    failed = [each for each in logs if each["log_level"] == "error"]
    assert [(each["path"], each.get("left_out")) for each in failed] == [("/api/status", None), ("/api/status", 2)]
    assert str(failed[0]["exc_info"]) == "no report"


async def test_an_application_that_fails_later_cuts_the_response_off(application):
    with capture_logs() as logs:
        async with exporter(View()) as address:
            received = await speak(address, request("/breaks"))
            assert (await get(address, "/status")).body == PAGE
    assert received.endswith(b"4\r\nsome\r\n")
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["a request to the exporter failed"]


async def test_an_application_that_hangs_ends_with_its_time(application, monkeypatch):
    monkeypatch.setattr(_connection, "_RESPONSE_TIMEOUT", 0.05)
    async with exporter(View()) as address:
        assert await speak(address, request("/hangs")) == b""
        assert (await get(address, "/healthz")).status == 200


async def test_a_page_that_cannot_be_imported(monkeypatch):
    failures = [ImportError("no starlette")] * 2
    made = Application()

    def load(name):
        assert name == "connectrio.host.exporter.page"
        if failures:
            raise failures.pop()
        return SimpleNamespace(make_app=lambda source: made)

    monkeypatch.setattr("connectrio.host.exporter._pages.import_module", load)
    with capture_logs() as logs:
        async with exporter(View()) as address:
            for _ in range(2):
                refused = await get(address, "/status")
                assert (refused.status, b"cannot be loaded" in refused.body) == (503, True)
                assert (await get(address, "/metrics")).status == 200
                assert (await get(address, "/api/status")).status == 200
            assert (await get(address, "/status")).body == PAGE
    assert [line["log_level"] for line in logs] == ["error"]


async def test_the_page_gets_the_source(monkeypatch):
    view, given = View(), []

    def make_app(source):
        given.append(source)
        return Application()

    page = SimpleNamespace(make_app=make_app)
    monkeypatch.setattr("connectrio.host.exporter._pages.import_module", lambda name: page)
    async with exporter(view) as address:
        for _ in range(2):
            await get(address, "/status")
        [source] = given
        assert await source.report() == await view.report()
        assert await source.stacks() == await view.stacks()


# streams


async def test_a_stream_lasts(application, monkeypatch):
    monkeypatch.setattr(_connection, "_RESPONSE_TIMEOUT", 0.05)
    async with exporter(View()) as address, streaming(address) as stream:
        with anyio.move_on_after(0.3) as waiting:
            await stream.receive()
        assert waiting.cancelled_caught


async def test_a_client_that_leaves_ends_its_stream(application):
    async with exporter(View()) as address:
        async with streaming(address):
            assert not application.ended.is_set()
        with anyio.fail_after(PATIENCE):
            await application.ended.wait()


async def test_a_client_that_takes_nothing_is_left(application, monkeypatch):
    monkeypatch.setattr(_connection, "_RESPONSE_TIMEOUT", 0.05)
    with capture_logs() as logs:
        async with exporter(View()) as address, await anyio.connect_tcp(*address) as stream:
            await stream.send(request("/flood"))
            with anyio.fail_after(PATIENCE):
                await application.ended.wait()
    assert logs == []


async def test_streams_end_at_once_when_the_exporter_stops(application, monkeypatch):
    monkeypatch.setattr(_http, "_GRACE", HOUR)
    async with AsyncExitStack() as stack:
        async with exporter(View()) as address:
            streams = [await stack.enter_async_context(streaming(address)) for _ in range(3)]
        for each in streams:
            assert b"0\r\n\r\n" not in await read_to_the_end(each)


async def test_a_stream_that_begins_while_the_exporter_stops_ends(application, monkeypatch):
    monkeypatch.setattr(_http, "_GRACE", HOUR)
    asked, go_on = anyio.Event(), anyio.Event()

    async def late(receive, send):
        asked.set()
        await go_on.wait()
        await application.events(receive, send)

    application.late = late
    async with anyio.create_task_group() as clients, exporter(View()) as address:
        clients.start_soon(speak, address, request("/late"))
        await asked.wait()

        async def answer_later():
            await anyio.wait_all_tasks_blocked()
            go_on.set()

        clients.start_soon(answer_later)
    assert application.ended.is_set()


async def test_streams_leave_connections_to_others(application, monkeypatch):
    monkeypatch.setattr(_asgi, "_MAX_STREAMS", 2)
    monkeypatch.setattr(_http, "_MAX_CONNECTIONS", 4)
    async with exporter(View()) as address, streaming(address) as first, streaming(address):
        refused = await get(address, "/events")
        assert (refused.status, refused.body) == (503, b"503 Service Unavailable: 2 streams are open already\n")
        assert "retry-after" in refused.headers
        # connections that wait for their client are closed for new ones, and streams do not wait
        async with AsyncExitStack() as stack:
            for _ in range(6):
                await stack.enter_async_context(await anyio.connect_tcp(*address))
            assert (await get(address, "/metrics")).status == 200
        with anyio.move_on_after(0.05) as waiting:
            await first.receive()
        assert waiting.cancelled_caught
        await first.aclose()
        with anyio.fail_after(PATIENCE):
            await application.ended.wait()
        while (await get(address, "/two_events")).status == 503:
            await anyio.lowlevel.checkpoint()


# tokens


def basic(token: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{token}".encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer first", 200),
        ("bearer  second ", 200),
        (basic("first"), 200),
        ("", 401),
        ("Bearer", 401),
        ("Bearer fir", 401),
        ("Bearer third", 401),
        (basic("third"), 401),
        ("Basic first", 401),
        ("Basic ====", 401),
        ("Digest first", 401),
        ("Bearer \xff", 401),
    ],
)
async def test_tokens(application, tmp_path, authorization, status):
    file = tmp_path / "tokens"
    file.write_text("first\n\n  second  \n")
    headers = {"authorization": authorization} if authorization else {}
    async with exporter(View(), HostSettings(page_token_file=file)) as address:
        answers = [await get(address, path, accept=BROWSER, **headers) for path in ("/", "/status", "/api/status")]
        assert [each.status for each in answers] == [status] * 3
        if status == 401:
            assert answers[0].headers["www-authenticate"].startswith('Basic realm="connectrio"')
            assert "--page-token-file" in answers[2].json["error"]
        for path in ("/metrics", "/healthz", "/readyz", "/"):
            assert (await get(address, path)).status == 200


async def test_tokens_are_read_again_when_they_change(application, tmp_path):
    file = tmp_path / "tokens"
    with capture_logs() as logs:
        async with exporter(View(), HostSettings(page_token_file=file)) as address:

            async def status(token):
                return (await get(address, "/api/status", authorization=f"Bearer {token}")).status

            assert await status("one") == 403
            assert await status("") == 403
            file.write_text("one")
            assert (await status("one"), await status("two")) == (200, 401)
            new = tmp_path / "new"
            new.write_text("two")
            new.replace(file)
            assert (await status("one"), await status("two")) == (401, 200)
            file.write_text("\n  \n")
            assert (await status("two"), await status("")) == (403, 403)
            file.unlink()
            assert await status("two") == 403
            file.mkdir()
            assert await status("two") == 403
    problems = [(line["log_level"], line.get("error")) for line in logs]
    assert problems == [
        ("error", "No such file or directory"),
        ("info", None),
        ("error", "it has no token; write one on a line of its own"),
        ("error", "No such file or directory"),
        ("error", "it is no regular file"),
    ]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:9090", True), ("127.0.0.1", True), ("[::1]:9090", True), ("[fe80::1]", True), ("", True),
        ("localhost:9090", True), ("connectors:9090", True), ("LOCALHOST.", True),
        ("connectors.flyte.svc.cluster.local:9090", True), ("connectors.flyte.svc", True),
        ("evil.example:9090", False), ("127.0.0.1.evil.example", False), ("connectors.example.com", False),
        ("localhost.example.com.", False),
    ],
)  # fmt: skip
def test_private_names(host, expected):
    assert is_private(host) == expected


async def test_a_public_name_needs_a_token(application, tmp_path):
    """Or a page of a stranger in a browser could read the status page, by a name that leads to this host."""
    file = tmp_path / "tokens"
    file.write_text("one")
    async with exporter(View()) as address:
        refused = await get(address, "/api/jobs", host="evil.example")
        assert (refused.status, "--page-token-file" in refused.json["error"]) == (403, True)
        assert (await get(address, "/metrics", host="evil.example")).status == 200
    async with exporter(View(), HostSettings(page_token_file=file)) as address:
        assert (await get(address, "/api/jobs", host="a.example", authorization="Bearer one")).status == 200


@pytest.mark.parametrize(("bound", "tells"), [("127.0.0.1", False), ("0.0.0.0", True)])
@pytest.mark.parametrize("settings", [HostSettings(), HostSettings(page=False)])
async def test_a_page_that_others_can_read_is_told(bound, tells, settings):
    with capture_logs() as logs:
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve_exporter, [socket.create_server((bound, 0))], View(), settings)
            tasks.cancel_scope.cancel()
    assert [line["log_level"] for line in logs] == ["info"] * (tells and settings.page)


# TLS


async def secure_get(address, path, authority, host="localhost", **headers):
    """The status and the body, over TLS that trusts `authority`."""
    context = ssl.create_default_context(cafile=authority)

    def ask():
        connection = http.client.HTTPSConnection(host, address[1], timeout=PATIENCE, context=context)
        with closing(connection):
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    return await anyio.to_thread.run_sync(ask)


def server_tls(pki: Pki) -> ServerTLS:
    return ServerTLS(pki.server.cert, pki.server.key, protocols=("http/1.1",))


async def test_tls(application, pki):
    async with exporter(View(), context=server_tls(pki).context) as address:
        for path in ("/metrics", "/readyz", "/api/status", "/status", "/two_events", "/parts"):
            status, received = await secure_get(address, path, pki.ca)
            assert (status, received != b"") == (200, True)
        assert application.scopes[0]["scheme"] == "https"
        with pytest.raises(ssl.SSLCertVerificationError):
            await secure_get(address, "/metrics", pki.strangers)
        # who does not speak TLS is told
        refused = await speak(address, request("/metrics"))
        assert refused.startswith(b"HTTP/1.1 400")
        assert b"https://" in refused
        assert (await speak(address, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 600)) != b""
        assert (await secure_get(address, "/readyz", pki.ca))[0] == 200


async def test_a_stream_over_tls_ends_with_its_client(application, pki):
    async with exporter(View(), context=server_tls(pki).context) as address:
        context = ssl.create_default_context(cafile=pki.ca)
        async with await anyio.connect_tcp("localhost", address[1], ssl_context=context) as stream:
            await stream.send(request("/events"))
            received = b""
            while b"data: first" not in received:
                received += await stream.receive()
            assert not application.ended.is_set()
        with anyio.fail_after(PATIENCE):
            await application.ended.wait()


async def test_large_responses_over_tls(application, pki):
    async def large(receive, send):
        await respond(send, b"x" * 5_000_000)

    application.large = large
    async with exporter(View(), context=server_tls(pki).context) as address:
        assert await secure_get(address, "/large", pki.ca) == (200, b"x" * 5_000_000)


async def test_a_client_that_does_not_finish_the_handshake_is_left(pki, monkeypatch):
    monkeypatch.setattr(_connection, "_REQUEST_TIMEOUT", 0.05)
    async with exporter(View(), context=server_tls(pki).context) as address:
        assert await speak(address) == b""


async def test_a_new_certificate(pki):
    renewed = issue(pki.directory, "renewed", "localhost", authority=STRANGERS)
    async with exporter(View(), context=server_tls(pki).context) as address:
        assert (await secure_get(address, "/readyz", pki.ca))[0] == 200
        renewed.cert.replace(pki.server.cert)
        renewed.key.replace(pki.server.key)
        assert (await secure_get(address, "/readyz", pki.strangers))[0] == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            await secure_get(address, "/readyz", pki.ca)


async def test_a_host_with_tls_on_its_exporter(pki):
    settings = HostSettings(
        host="127.0.0.1", port=0, prometheus_port=0, tls_cert=pki.server.cert, tls_key=pki.server.key,
        tls_client_ca=pki.ca, prometheus_tls=True, entry_points=False,
    )  # fmt: skip
    async with anyio.create_task_group() as tasks:
        host = Host(settings, registry=Registry())
        addresses = await tasks.start(host.serve)
        assert addresses.url.startswith("https://")
        status, received = await secure_get(addresses.http[0], "/readyz", pki.ca)
        assert (status, json.loads(received)["not_ready"]) == (200, [])
        await host.shutdown()
