"""Targets with several addresses."""

from __future__ import annotations

import socket

import pytest

from connectrio.rpc._client.target import TcpAddress, UnixAddress, parse_target


@pytest.mark.parametrize(
    ("target", "addresses", "authority"),
    [
        ("ipv4:127.0.0.1:1", [TcpAddress("127.0.0.1", 1)], "127.0.0.1:1"),
        ("ipv4:127.0.0.1:1,10.0.0.2:65535", [TcpAddress("127.0.0.1", 1), TcpAddress("10.0.0.2", 65535)], "127.0.0.1:1"),
        ("ipv6:[::1]:1,[fe80::1%lo]:2", [TcpAddress("::1", 1), TcpAddress("fe80::1%lo", 2)], "[::1]:1"),
        ("127.0.0.1:80", [TcpAddress("127.0.0.1", 80)], "127.0.0.1:80"),
        ("dns:///[::1]:80", [TcpAddress("::1", 80)], "[::1]:80"),
        ("unix:/run/a.sock", [UnixAddress("/run/a.sock")], "localhost"),
    ],
)
async def test_addresses_that_need_no_resolving(target: str, addresses: list, authority: str):
    parsed = parse_target(target)
    assert list(await parsed.resolve()) == addresses
    assert parsed.authority == authority
    assert parsed.name == target


@pytest.mark.parametrize(
    "target",
    [
        "ipv4:",
        "ipv4:localhost:1",
        "ipv4:[::1]:1",
        "ipv4:127.0.0.1",
        "ipv4:127.0.0.1:1,",
        "ipv4:127.0.0.1:1,127.0.0.1",
        "ipv4:127.0.0.1:0",
        "ipv4:127.0.0.1:65536",
        "ipv4:127.0.0.1:123456",
        "ipv4:127.0.0.1:1;127.0.0.1:2",
        "ipv6:127.0.0.1:1",
        "ipv6:::1:1",
        "ipv6:[::1]",
        "a:1,b:2",
        "dns:///a:1,b:2",
    ],
)
def test_what_is_no_list_of_addresses(target: str):
    with pytest.raises(ValueError, match="expected host:port") as raised:
        parse_target(target)
    assert repr(target) in str(raised.value)


async def test_a_name_is_resolved_to_all_its_addresses_each_time(monkeypatch):
    answers = [
        [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 7, 0, 0)), (socket.AF_INET, 1, 6, "", ("127.0.0.1", 7))],
        [(socket.AF_INET, 1, 6, "", ("127.0.0.2", 7)), (socket.AF_INET, 1, 6, "", ("127.0.0.2", 7))],
    ]

    async def getaddrinfo(host, port, *, type):  # noqa: A002 - the function's own signature
        assert (host, port, type) == ("connectors.test", 7, socket.SOCK_STREAM)
        return answers.pop(0)

    monkeypatch.setattr("anyio.getaddrinfo", getaddrinfo)
    target = parse_target("dns:///connectors.test:7")
    assert await target.resolve() == [TcpAddress("::1", 7), TcpAddress("127.0.0.1", 7)]
    assert await target.resolve() == [TcpAddress("127.0.0.2", 7)]


async def test_localhost_is_a_name():
    assert TcpAddress("127.0.0.1", 7) in await parse_target("localhost:7").resolve()


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64, "a..b"])
async def test_a_name_that_cannot_be_resolved_is_an_os_error(host: str):
    with pytest.raises(OSError, match=f"cannot resolve '{host[:5]}"):
        await parse_target(f"{host}:7").resolve()


def test_addresses_read_as_people_write_them():
    assert [str(TcpAddress("::1", 1)), str(TcpAddress("10.0.0.1", 2))] == ["[::1]:1", "10.0.0.1:2"]
    assert str(UnixAddress("/a")) == "unix:/a"
