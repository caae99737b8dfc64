"""Which addresses may be connected to."""

from __future__ import annotations

import ipaddress

import pytest
from pydantic import ValidationError

from stages.acquire import AcquireSettings
from stages.acquire.guard import is_blocked

BLOCKED = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.255.255",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "0.0.0.1",
    "127.0.0.53",
    "169.254.170.2",
    "192.0.0.8",
    "224.0.0.251",
    "239.0.0.1",
    "247.1.2.3",
    "::",
    "::1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:7f00:1",
    "::ffff:10.0.0.1",
    "::ffff:a9fe:a9fe",
    "::127.0.0.1",
    "::2",
    "0:0:0:0:0:ffff:c0a8:1",
    "0000::0001",
    "1fff::1",
    "2001:0:7f00:1::",
    "2001:2::1",
    "2001:20::1",
    "2001:1ff:ffff::1",
    "2002:a9fe:a9fe::1",
    "2002:c0a8:101::c0a8:101",
    "3fff:fff::1",
    "5f00::1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1:a00:1::",
    "fd12:3456:789a::1",
    "fdff::1",
    "fe80::a9fe:a9fe%2",
    "febf::1",
    "feff::1",
    "ff05::2%eth0",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "4000::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.1",
    "172.15.255.255",
    "172.32.0.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
    "2a00:1450:4001::1",
    "3ffe::1",
]


@pytest.mark.parametrize("address", BLOCKED)
def test_private_addresses_are_blocked(address: str) -> None:
    assert is_blocked(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    assert not is_blocked(address)


def test_allowed_networks_open_their_range_only() -> None:
    allowed = [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("::1/128")]
    assert not is_blocked("10.1.2.3", allowed)
    assert not is_blocked("::1", allowed)
    for address in ("10.2.0.1", "127.0.0.1", "::ffff:10.1.2.3", "fe80::1"):
        assert is_blocked(address, allowed)


@pytest.mark.parametrize("network", ["10.0.0.1/8", "10.0.0.0/33", "intranet", ""])
def test_networks_are_checked_when_the_recipe_is_read(network: str) -> None:
    with pytest.raises(ValidationError):
        AcquireSettings(allow_networks=[network])
