"""Where a channel connects to."""

from __future__ import annotations

import pytest

from connectrio.rpc._client.target import CustomAddress, TcpAddress, UnixAddress, parse_target


@pytest.mark.parametrize(
    ("target", "addresses", "authority"),
    [
        ("127.0.0.1:1", [TcpAddress("127.0.0.1", 1)], "127.0.0.1:1"),
        ("dns:127.0.0.1:443", [TcpAddress("127.0.0.1", 443)], "127.0.0.1:443"),
        ("dns:///127.0.0.1:65535", [TcpAddress("127.0.0.1", 65535)], "127.0.0.1:65535"),
        ("[::1]:8000", [TcpAddress("::1", 8000)], "[::1]:8000"),
        ("dns:///[::1]:8000", [TcpAddress("::1", 8000)], "[::1]:8000"),
        ("[fe80::1%eth0]:8000", [TcpAddress("fe80::1%eth0", 8000)], "[fe80::1%eth0]:8000"),
        ("ipv4:1.2.3.4:5,6.7.8.9:10", [TcpAddress("1.2.3.4", 5), TcpAddress("6.7.8.9", 10)], "1.2.3.4:5"),
        ("ipv6:[::1]:5,[::2]:10", [TcpAddress("::1", 5), TcpAddress("::2", 10)], "[::1]:5"),
        ("unix:/run/c.sock", [UnixAddress("/run/c.sock")], "localhost"),
        ("unix:///run/c.sock", [UnixAddress("/run/c.sock")], "localhost"),
        ("unix:relative.sock", [UnixAddress("relative.sock")], "localhost"),
    ],
)
async def test_targets(target: str, addresses: list, authority: str):
    parsed = parse_target(target)
    assert list(await parsed.resolve()) == addresses
    assert (parsed.name, parsed.authority) == (target, authority)


@pytest.mark.parametrize("target", ["localhost:50051", "dns:localhost:50051", "dns:///localhost:50051"])
async def test_names_are_resolved_each_time(target: str):
    parsed = parse_target(target)
    addresses = await parsed.resolve()
    assert {str(address) for address in addresses} <= {"127.0.0.1:50051", "[::1]:50051"}
    assert parsed.authority == "localhost:50051"


@pytest.mark.parametrize("name", ["no-such-host.invalid", "x" * 64 + ".invalid", "a..b"])
async def test_a_name_that_nobody_knows_is_an_error_that_names_it(name: str):
    with pytest.raises(OSError, match="cannot resolve"):
        await parse_target(f"{name}:1").resolve()


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
        "ipv4:localhost:1",
        "ipv4:[::1]:1",
        "ipv4:1.2.3.4:5,",
        "ipv6:1.2.3.4:5",
        "ipv6:[::1]",
        "unix:",
        "unix://",
        "xds:///service:1",
        "dns:///",
        "host:50051\n",
    ],
)
def test_what_is_no_target_is_named_in_the_error(target: str):
    with pytest.raises(ValueError, match="expected host:port") as raised:
        parse_target(target)
    assert repr(target) in str(raised.value)
