"""Where a channel connects to."""

from __future__ import annotations

import pytest

from connectrio.rpc.target import parse_target


@pytest.mark.parametrize(
    ("target", "arguments", "authority"),
    [
        ("localhost:50051", ("localhost", 50051), "localhost:50051"),
        ("127.0.0.1:1", ("127.0.0.1", 1), "127.0.0.1:1"),
        ("dns:example.test:443", ("example.test", 443), "example.test:443"),
        ("dns:///example.test:65535", ("example.test", 65535), "example.test:65535"),
        ("[::1]:8000", ("::1", 8000), "[::1]:8000"),
        ("dns:///[::1]:8000", ("::1", 8000), "[::1]:8000"),
        ("[fe80::1%eth0]:8000", ("fe80::1%eth0", 8000), "[fe80::1%eth0]:8000"),
        ("unix:/run/c.sock", ("/run/c.sock",), "localhost"),
        ("unix:///run/c.sock", ("/run/c.sock",), "localhost"),
        ("unix:relative.sock", ("relative.sock",), "localhost"),
    ],
)
def test_targets(target: str, arguments: tuple, authority: str):
    connect, found = parse_target(target)
    assert connect.args == arguments  # type: ignore[attr-defined]
    assert found == authority


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
