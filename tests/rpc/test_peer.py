"""Addresses of peers."""

from __future__ import annotations

import pytest

from connectrio.rpc.peer import share_of


@pytest.mark.parametrize(
    ("host", "share"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("[2001:db8:0:1:ffff::2]", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::1", "2001:db8:0:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("[::ffff:a00:1]", "10.0.0.1"),
        ("", ""),
        ("a:b", "a:b"),
    ],
)
def test_the_share_of_an_address(host, share):
    assert share_of(host) == share
