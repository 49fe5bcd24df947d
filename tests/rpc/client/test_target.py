"""Where a channel connects to."""

from __future__ import annotations

import socket

import pytest

from connectrio.rpc._client.target import CustomAddress, TcpAddress, UnixAddress, parse_target


@pytest.mark.parametrize(
    ("target", "addresses", "authority"),
    [
        ("127.0.0.1:1", [TcpAddress("127.0.0.1", 1)], "127.0.0.1:1"),
        ("127.0.0.1:80", [TcpAddress("127.0.0.1", 80)], "127.0.0.1:80"),
        ("dns:127.0.0.1:443", [TcpAddress("127.0.0.1", 443)], "127.0.0.1:443"),
        ("dns:///127.0.0.1:65535", [TcpAddress("127.0.0.1", 65535)], "127.0.0.1:65535"),
        ("[::1]:8000", [TcpAddress("::1", 8000)], "[::1]:8000"),
        ("dns:///[::1]:8000", [TcpAddress("::1", 8000)], "[::1]:8000"),
        ("[fe80::1%eth0]:8000", [TcpAddress("fe80::1%eth0", 8000)], "[fe80::1%eth0]:8000"),
        ("ipv4:127.0.0.1:1", [TcpAddress("127.0.0.1", 1)], "127.0.0.1:1"),
        ("ipv4:1.2.3.4:5,6.7.8.9:10", [TcpAddress("1.2.3.4", 5), TcpAddress("6.7.8.9", 10)], "1.2.3.4:5"),
        ("ipv4:127.0.0.1:1,10.0.0.2:65535", [TcpAddress("127.0.0.1", 1), TcpAddress("10.0.0.2", 65535)], "127.0.0.1:1"),
        ("ipv6:[::1]:5,[::2]:10", [TcpAddress("::1", 5), TcpAddress("::2", 10)], "[::1]:5"),
        ("ipv6:[::1]:1,[fe80::1%lo]:2", [TcpAddress("::1", 1), TcpAddress("fe80::1%lo", 2)], "[::1]:1"),
        ("unix:/run/c.sock", [UnixAddress("/run/c.sock")], "localhost"),
        ("unix:///run/c.sock", [UnixAddress("/run/c.sock")], "localhost"),
        ("unix:relative.sock", [UnixAddress("relative.sock")], "localhost"),
        ("unix-abstract:c.sock", [UnixAddress("\0c.sock")], "localhost"),
        ("passthrough:///127.0.0.1:8000", [TcpAddress("127.0.0.1", 8000)], "127.0.0.1:8000"),
        ("passthrough:///[::1]:8000", [TcpAddress("::1", 8000)], "[::1]:8000"),
        ("dns:///127.0.0.1", [TcpAddress("127.0.0.1", 443)], "127.0.0.1"),
        ("ipv4:127.0.0.1", [TcpAddress("127.0.0.1", 443)], "127.0.0.1"),
        ("ipv4:127.0.0.1:1,127.0.0.1", [TcpAddress("127.0.0.1", 1), TcpAddress("127.0.0.1", 443)], "127.0.0.1:1"),
        ("ipv6:[::1]", [TcpAddress("::1", 443)], "[::1]"),
    ],
)
async def test_targets_with_addresses(target: str, addresses: list, authority: str):
    parsed = parse_target(target)
    assert list(await parsed.resolve()) == addresses
    assert (parsed.name, parsed.authority) == (target, authority)


@pytest.mark.parametrize(
    "target", ["localhost:50051", "dns:localhost:50051", "dns:///localhost:50051", "passthrough:///localhost:50051"]
)
async def test_localhost_is_a_name(target: str):
    parsed = parse_target(target)
    addresses = await parsed.resolve()
    assert {str(address) for address in addresses} <= {"127.0.0.1:50051", "[::1]:50051"}
    assert TcpAddress("127.0.0.1", 50051) in addresses
    assert parsed.authority == "localhost:50051"


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


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64, "x" * 64 + ".invalid", "a..b"])
async def test_a_name_that_cannot_be_resolved_is_an_os_error(host: str):
    with pytest.raises(OSError, match=f"cannot resolve '{host[:5]}"):
        await parse_target(f"{host}:7").resolve()


async def test_a_function_is_a_target():
    async def connect():
        raise AssertionError

    parsed = parse_target(connect)
    assert list(await parsed.resolve()) == [CustomAddress(connect)]
    assert parsed.authority == "localhost"


@pytest.mark.parametrize(
    "target",
    [
        "",
        "localhost",
        "localhost:",
        ":50051",
        "localhost:0",
        "localhost:65536",
        "localhost:http",
        "localhost:-1",
        "http://localhost:50051",
        "localhost:50051/path",
        "::1:50051",
        "[::1]",
        "[localhost]:1",
        "ipv4:",
        "ipv4:localhost:1",
        "ipv4:[::1]:1",
        "ipv4:127.0.0.1:1,",
        "ipv4:127.0.0.1:0",
        "ipv4:127.0.0.1:65536",
        "ipv4:127.0.0.1:123456",
        "ipv4:127.0.0.1:1;127.0.0.1:2",
        "ipv6:127.0.0.1:1",
        "ipv6:::1:1",
        "a:1,b:2",
        "dns:///a:1,b:2",
        "unix:",
        "unix://",
        "unix-abstract:",
        "passthrough:///",
        "passthrough:localhost:1",
        "dns://8.8.8.8/localhost:1",
        "dns:localhost",
        "xds:///service:1",
        "dns:///",
        "host:50051\n",
    ],
)
def test_what_is_no_target_is_named_in_the_error(target: str):
    with pytest.raises(ValueError, match="expected host:port") as raised:
        parse_target(target)
    assert repr(target) in str(raised.value)


def test_addresses_read_as_people_write_them():
    assert [str(TcpAddress("::1", 1)), str(TcpAddress("10.0.0.1", 2))] == ["[::1]:1", "10.0.0.1:2"]
    assert [str(UnixAddress("/a")), str(UnixAddress("\0a"))] == ["unix:/a", "unix-abstract:a"]
