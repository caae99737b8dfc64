"""Keeps requests away from private networks: every address is judged at the moment a socket is opened to it.

Names, literal addresses, redirects and names that change their address between two look-ups (DNS rebinding) all end in
one place, the opening of a socket, so that is where the check stands.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

import aiohttp

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: IPv4 ranges that are not on the public internet (IANA special-purpose registry), and one that is but should not be.
_BLOCKED_V4 = [
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network, unspecified
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host, reached from inside its machines
        "169.254.0.0/16",  # link-local, cloud metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
]
#: Only global unicast may pass (RFC 4291), which leaves out loopback, IPv4-mapped, NAT64, unique local, link-local and
#: multicast; inside it lie ranges that carry or hide other addresses.
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_BLOCKED_V6 = [
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
]


_KEEP_ALIVE_S = 10


class BlockedAddressError(OSError):
    """A connection to an address outside the public internet, and outside the networks that the recipe allows."""


def is_blocked(address: str, allowed: Iterable[Network] = ()) -> bool:
    """Whether `address` (IPv4 or IPv6 text, a zone after '%' included) must not be connected to.

    Args:
        address: what is about to be connected to.
        allowed: networks that are open although they are not public. An IPv6 form of an IPv4 address counts as IPv6.

    Raises:
        ValueError: `address` is not an IP address.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if any(ip.version == network.version and ip in network for network in allowed):
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return any(ip in network for network in _BLOCKED_V4)
    return ip not in _GLOBAL_V6 or any(ip in network for network in _BLOCKED_V6)


def guarded_connector(allow_networks: Iterable[str], limit: int) -> aiohttp.TCPConnector:
    """A connector that opens sockets to public addresses and to `allow_networks` (CIDR texts) only.

    Idle connections are kept for further requests to the same host, and names that were looked up for five minutes. All
    connectors of a process share aiohttp's one TLS context. A TLS session is used again by keeping its connection:
    asyncio has no way to resume one on a new connection, which so costs a whole handshake.

    Its connections fail with an `aiohttp.ClientConnectorError` whose `os_error` is a `BlockedAddressError`.
    """
    allowed = [ipaddress.ip_network(network) for network in allow_networks]

    def open_socket(info: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        family, kind, protocol, _, address = info
        if is_blocked(address[0], allowed):
            # The same words for each of a name's addresses: what fails with one message for all keeps its type.
            raise BlockedAddressError("not a public address")
        return socket.socket(family=family, type=kind, proto=protocol)

    return aiohttp.TCPConnector(
        limit=limit,
        keepalive_timeout=_KEEP_ALIVE_S,
        ttl_dns_cache=300,
        dns_cache_max_size=10_000,
        socket_factory=open_socket,
    )
