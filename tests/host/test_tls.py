"""A host with TLS and a Unix socket: settings, errors, shutdown."""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.streams.text import TextReceiveStream
from structlog.testing import capture_logs

from connectrio.connector.registry import Registry
from connectrio.host.host import Host, HostError
from connectrio.host.settings import HostSettings
from connectrio.idl.grpc.health.v1 import HealthCheckRequest, HealthStub
from connectrio.idl.grpc.health.v1 import HealthCheckResponseServingStatus as ServingStatus
from connectrio.rpc import Channel
from connectrio.rpc.tls import ChannelTLS, ServerTLS
from rpc.kit.certificates import Pki, issue
from rpc.kit.script import Note
from rpc.kit.tls_serving import PATIENCE, calling

LOCAL = {"host": "127.0.0.1", "port": 0, "prometheus_port": 0}


@asynccontextmanager
async def hosting(**settings):
    """Yield the addresses of a host that serves."""
    host = Host(HostSettings(**LOCAL, **settings), registry=Registry())
    with anyio.fail_after(PATIENCE), capture_logs():
        async with anyio.create_task_group() as tasks:
            yield await tasks.start(host.serve)
            await host.shutdown()


async def health(target: str, tls: ChannelTLS | None) -> ServingStatus:
    async with Channel(target, tls=tls) as channel:
        return (await HealthStub(channel).check(HealthCheckRequest())).status


async def refusal(**settings) -> str:
    """Return the error of a host that does not start."""
    with pytest.raises(HostError) as raised:
        await Host(HostSettings(**LOCAL, **settings), registry=Registry()).serve()
    return str(raised.value)


async def test_tls_and_a_unix_socket_beside_it(pki: Pki):
    path = pki.directory / "grpc.sock"
    async with hosting(tls_cert=pki.server.cert, tls_key=pki.server.key, unix_socket=path) as addresses:
        assert addresses.unix_socket == path
        assert await health(addresses.target, ChannelTLS(pki.ca)) is ServingStatus.SERVING
        assert await health(f"unix:{path}", None) is ServingStatus.SERVING
    assert not os.path.exists(path)  # noqa: PTH110, ASYNC240 - tests may look at files


async def test_clients_need_certificates_if_authorities_are_given(pki: Pki):
    settings = {"tls_cert": pki.server.cert, "tls_key": pki.server.key, "tls_client_ca": pki.ca}
    async with hosting(**settings) as addresses:
        own = ChannelTLS(pki.ca, pki.client.cert, pki.client.key)
        assert await health(addresses.target, own) is ServingStatus.SERVING
        with pytest.raises(Exception, match="the server requires a certificate of ours"):
            await health(addresses.target, ChannelTLS(pki.ca))


@pytest.mark.parametrize(("minimum", "works"), [("1.2", True), ("1.3", False)])
async def test_the_oldest_version_of_tls(pki: Pki, minimum: str, works: bool):
    tls = ChannelTLS(pki.ca)
    tls._context.current().maximum_version = tls._context.current().minimum_version
    async with hosting(tls_cert=pki.server.cert, tls_key=pki.server.key, tls_minimum=minimum) as addresses:
        if works:
            assert await health(addresses.target, tls) is ServingStatus.SERVING
        else:
            with pytest.raises(Exception, match="the server speaks no version of TLS that is allowed here"):
                await health(addresses.target, tls)


async def test_a_new_certificate_while_the_host_runs(pki: Pki):
    renewed = issue(pki.directory, "renewed", "renewed.example.com")
    async with hosting(tls_cert=pki.server.cert, tls_key=pki.server.key) as addresses:
        renewed.cert.replace(pki.server.cert)
        renewed.key.replace(pki.server.key)
        tls = ChannelTLS(pki.ca, server_hostname="renewed.example.com")
        assert await health(addresses.target, tls) is ServingStatus.SERVING


async def test_why_a_host_does_not_start(pki: Pki):
    nowhere, path = pki.directory / "nowhere.pem", pki.directory / "grpc.sock"
    assert await refusal(tls_cert=nowhere) == f"cannot read {nowhere}: No such file or directory"
    assert "is not that of the certificate" in await refusal(tls_cert=pki.server.cert, tls_key=pki.client.key)
    assert "a file that is no socket has that name" in await refusal(unix_socket=pki.ca)
    async with hosting(unix_socket=path):
        assert "another process does; stop it" in await refusal(unix_socket=path)
        assert await health(f"unix:{path}", None) is ServingStatus.SERVING


async def test_nothing_is_left_of_a_host_that_does_not_start(pki: Pki):
    """The Unix socket exists before lifespans open."""
    path = pki.directory / "grpc.sock"
    host = Host(HostSettings(**LOCAL, unix_socket=path), registry=Registry())
    host._lifespans.open = lambda task_group: 1 / 0
    with pytest.raises(ExceptionGroup):
        await host.serve()
    assert not os.path.exists(path)  # noqa: PTH110, ASYNC240 - tests may look at files


@pytest.mark.parametrize(
    ("plain_on", "tls_on", "capitals"),
    [("127.0.0.1", None, False), ("0.0.0.0", None, True), ("127.0.0.1", "0.0.0.0", False), (None, "0.0.0.0", False)],
)
async def test_the_dangers_of_given_listeners(pki: Pki, plain_on, tls_on, capitals):
    """The warnings are in capitals where other machines can connect without TLS."""
    listeners = []
    if plain_on is not None:
        listeners.append(await anyio.create_tcp_listener(local_host=plain_on))
    if tls_on is not None:
        tls = ServerTLS(pki.server.cert, pki.server.key)
        listeners.append(tls.listen(await anyio.create_tcp_listener(local_host=tls_on)))
    host = Host(HostSettings(unsafe_sql=True, entry_points=False), registry=Registry(), listeners=listeners)
    with anyio.fail_after(PATIENCE), capture_logs() as logged:
        async with anyio.create_task_group() as tasks:
            addresses = await tasks.start(host.serve)
            await host.shutdown()
    assert [host for host, _ in addresses.grpc] == [each for each in (plain_on, tls_on) if each is not None]
    (danger,) = [line["event"] for line in logged if line["event"].upper().startswith("SQL IS NOT CONFINED")]
    assert danger.isupper() == capitals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tls_key": "key.pem"}, "tls_key is of no use without tls_cert"),
        ({"tls_client_ca": "ca.pem"}, "tls_client_ca is of no use without tls_cert"),
        ({"prometheus_tls": True}, "prometheus_tls needs a certificate: give tls_cert as well"),
        ({"page": False, "page_token_file": "tokens"}, "page_token_file is of no use without the page"),
        ({"tls_handshake_timeout": 0}, "tls_handshake_timeout must be more than 0, got 0"),
        ({"unix_socket_mode": "0o660"}, "unix_socket_mode must be three octal digits such as 660, got '0o660'"),
        ({"unix_socket_mode": "888"}, "unix_socket_mode must be three octal digits"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        HostSettings(**settings)


async def test_the_command_takes_all_of_this(pki: Pki, anyio_backend):
    backend = "uvloop" if anyio_backend[1] else anyio_backend[0]
    path = pki.directory / "grpc.sock"
    flags = ["--host", "127.0.0.1", "--port", "0", "--prometheus-port", "0", "--no-entry-points", "--no-reflection"]
    flags += [
        "--backend",
        backend,
        "--tls-cert",
        str(pki.server.cert),
        "--unix-socket",
        str(path),
        "--tls-minimum",
        "1.3",
    ]
    environment = {"CONNECTRIO_TLS_KEY": str(pki.server.key), "CONNECTRIO_UNIX_SOCKET_MODE": "660"}
    command = [sys.executable, "-m", "connectrio", "serve", *flags]
    with anyio.fail_after(4 * PATIENCE):  # another process, on a busy machine
        async with await anyio.open_process(command, env={**os.environ, **environment}) as host:
            printed = ""
            async for text in TextReceiveStream(host.stderr):
                printed += text
                if '"serving"' in printed and printed.endswith("\n"):
                    break
            target = re.search(r'"grpc": "(\S+:\d+)"', printed)[1]
            assert await health(target, ChannelTLS(pki.ca)) is ServingStatus.SERVING
            assert await health(f"unix:{path}", None) is ServingStatus.SERVING
            assert os.stat(path).st_mode & 0o777 == 0o660  # noqa: PTH116 - tests may look at files
            async with calling(target, ChannelTLS(pki.ca)) as stub:
                with pytest.raises(Exception, match="unknown method"):
                    await stub.unary(Note())
            host.send_signal(signal.SIGTERM)
            assert await host.wait() == 0
    assert not os.path.exists(path)  # noqa: PTH110, ASYNC240 - tests may look at files
