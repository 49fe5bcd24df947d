"""The metrics of a host: its state, its server, its certificate."""

from __future__ import annotations

import platform
from contextlib import aclosing
from datetime import UTC, datetime

import anyio

from connectrio._version import __version__
from connectrio.connector.failures import LoadFailure
from connectrio.connector.registry import Registry
from connectrio.host.host import Host
from connectrio.host.settings import HostSettings
from connectrio.idl.grpc.health.v1 import HealthCheckRequest, HealthStub
from connectrio.rpc import Channel
from rpc.kit.certificates import issue

LOCAL = {"host": "127.0.0.1", "port": 0, "prometheus_port": 0}


def make_host(**settings):
    return Host(HostSettings(**LOCAL, **settings), registry=Registry())


def shown(host, name, **labels):
    return host.collectors.get_sample_value(f"connectrio_{name}", labels)


def watching(channel):
    return aclosing(HealthStub(channel).watch(HealthCheckRequest()))


def state(host):
    states = ("starting", "serving", "draining", "stopped")
    return {name for name in states if shown(host, "state", state=name) == 1}


async def test_the_state_is_shown_to_the_end():
    host = make_host(drain_delay=0)
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(host.serve)
        assert (state(host), shown(host, "ready")) == ({"serving"}, 1)
        async with Channel(addresses.target) as channel, watching(channel) as watch:
            await anext(watch)
            tasks.start_soon(host.shutdown)
            await anext(watch)
            assert (state(host), shown(host, "ready")) == ({"draining"}, 0)
    assert (state(host), shown(host, "ready")) == ({"stopped"}, 0)


async def test_what_it_is(anyio_backend):
    host = make_host()
    library, options = anyio_backend
    backend = "uvloop" if options.get("use_uvloop") else library
    async with anyio.create_task_group() as tasks:
        await tasks.start(host.serve)
        labels = {"version": __version__, "python": platform.python_version(), "backend": backend}
        assert shown(host, "build_info", **labels) == 1
        await host.shutdown()


async def test_connectors_that_could_not_be_loaded_are_counted():
    host = make_host()
    async with anyio.create_task_group() as tasks:
        await tasks.start(host.serve)
        assert shown(host, "load_failures") == 0
        host.registry.failures.append(LoadFailure("entry point x", "ImportError", "no x"))
        assert shown(host, "load_failures") == 1
        await host.shutdown()


async def test_connections_and_bytes_are_shown():
    host = make_host()
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(host.serve)
        assert shown(host, "connections_open", kind="tcp") == 0
        async with Channel(addresses.target) as channel:
            async with watching(channel) as watch:
                await anext(watch)
                assert shown(host, "connections_open", kind="tcp") == 1
                assert shown(host, "connections_open", kind="tls") == 0
                assert shown(host, "streams_open") == 1
                assert shown(host, "streams_opened_total") == 1
                assert shown(host, "received_bytes_total") > 0
                assert shown(host, "sent_bytes_total") > 0
                assert shown(host, "requests_refused_for_memory_total") == 0
            await HealthStub(channel).check(HealthCheckRequest())
            assert shown(host, "streams_reset_total", by="peer", code="CANCEL") == 1
        await host.shutdown()


async def test_when_its_certificate_expires(pki):
    def end(year):
        return datetime(year, 1, 1, tzinfo=UTC)

    issued = issue(pki.directory, "server", "localhost", "127.0.0.1", not_after=end(2031))
    host = make_host(tls_cert=issued.cert, tls_key=issued.key, prometheus_tls=True)
    name = "certificate_expiry_timestamp_seconds"
    async with anyio.create_task_group() as tasks:
        await tasks.start(host.serve)
        for port in ("gRPC", "exporter"):
            assert shown(host, name, port=port, file=str(issued.cert)) == end(2031).timestamp()
        issue(pki.directory, "server", "localhost", "127.0.0.1", not_after=end(2032))
        await host.refresh()  # as at each scrape
        for port in ("gRPC", "exporter"):
            assert shown(host, name, port=port, file=str(issued.cert)) == end(2032).timestamp()
        certificates = (await host.report()).certificates
        assert [(each.port, each.expires) for each in certificates] == [
            ("gRPC", end(2032).timestamp()),
            ("exporter", end(2032).timestamp()),
        ]
        await host.shutdown()


async def test_without_a_certificate_none_expires():
    host = make_host()
    async with anyio.create_task_group() as tasks:
        await tasks.start(host.serve)
        assert not [each for each in host.collectors.collect() if "certificate" in each.name]
        await host.shutdown()
