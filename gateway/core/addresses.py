"""Which URLs may be dialled on a stranger's word: the deny table, how a URL is read, and what an operator allows.

`ipaddress.is_global` does not answer this: it calls NAT64, 6to4 and multicast addresses global, and its answers change
between Python releases. So the table is written out, and what it does not know in IPv6 is denied.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from contextlib import closing
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote

import msgspec

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

DENIED: tuple[Network, ...] = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network; Linux dials 0.0.0.0 as loopback
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT, and the metadata service of one cloud
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, and the metadata service of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocol assignments
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and the broadcast address
        # Only 2000::/3 is global unicast. The three networks around it hold all else: loopback, IPv4-mapped and
        # IPv4-compatible addresses, NAT64 (64:ff9b::/96, 64:ff9b:1::/48), discard (100::/64), SRv6 (5f00::/16),
        # unique-local (fc00::/7), link-local (fe80::/10), site-local (fec0::/10) and multicast (ff00::/8).
        "::/3",
        "4000::/2",
        "8000::/1",
        "2001::/23",  # IETF protocol assignments: Teredo, benchmarking, AMT, ORCHID, drone tags
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: carries any IPv4 address
        "2620:4f:8000::/48",  # AS112
        "3ffe::/16",  # the dissolved 6bone
        "3fff::/20",  # documentation
    )
)

LOCAL_NAMES = ("localhost", "localdomain", "local", "internal", "home.arpa")

LONGEST_URL = 8192  # characters
FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
"""What parsers drop, or read as something else, so that it stands in no URL that we take."""

_PORTS = {"http": 80, "https": 443}
_ASCII = "".join(map(chr, range(0x21, 0x7F)))
_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)(?:#.*)?", re.ASCII | re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_.-]+))(?::([0-9]{1,5}))?", re.ASCII | re.IGNORECASE)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)


def is_public(address: Address) -> bool:
    """Whether the deny table has no entry for this address."""
    return not any(address in network for network in DENIED)


def is_ours(address: Address) -> bool:
    """Whether this machine itself has the address, which may well be a public one. Nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
            probe.connect((str(address), 9))
            # The kernel answers one of its own addresses from that very address.
            return ip_address(probe.getsockname()[0]) == address
    except OSError:
        return False


def is_public_name(host: str) -> bool:
    """Whether a host name can be a public one: it has a dot and is in none of the local domains."""
    return "." in host and not any(host == name or host.endswith(f".{name}") for name in LOCAL_NAMES)


def as_address(host: str) -> Address | None:
    """The address that a host as `split_authority` returns it stands for, or None when it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def split_authority(authority: str) -> tuple[str, int | None]:
    """Splits `host` or `host:port`: a name in lower case or an address in its one usual form, without brackets.

    Raises ValueError for user info, for non-ASCII names (their xn-- form is accepted), for trailing dots and for
    every unusual spelling of an address (127.1, 0x7f.1, 2130706433, 0177.0.0.1), which the system would understand.
    """
    if "@" in authority:
        raise ValueError("the URL contains a user name or password")
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise ValueError("the host or port of the URL is malformed")
    bracketed, name, port = match.groups()
    if port is not None and not 1 <= int(port) <= 65535:
        raise ValueError("the port of the URL is out of range")
    host = _ipv6(bracketed) if bracketed is not None else _name_or_ipv4(name.lower())
    return host, None if port is None else int(port)


def _ipv6(text: str) -> str:
    try:
        return str(IPv6Address(text))
    except ValueError:
        raise ValueError("the address in the URL is malformed") from None


def _name_or_ipv4(text: str) -> str:
    labels = text.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(text))
        except ValueError:
            raise ValueError("the address in the URL is spelled in an unusual way") from None
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("the host name in the URL is malformed")
    return text


def _as_sent(rest: str) -> str:
    try:
        # Only what is not ASCII is encoded: signed URLs die from any other change.
        encoded = quote(rest, safe=_ASCII)
    except UnicodeEncodeError:
        raise ValueError("the URL is not valid Unicode") from None
    return encoded if encoded.startswith("/") else f"/{encoded}"


class Target(msgspec.Struct, frozen=True):
    """A URL taken apart: `host` without brackets, `rest` is path and query in ASCII, as they go over the wire."""

    scheme: str
    host: str
    port: int
    rest: str

    @classmethod
    def of(cls, url: str) -> Target:
        """Reads a URL; the fragment is dropped. Raises ValueError where two parsers could read it differently."""
        if len(url) > LONGEST_URL:
            raise ValueError(f"the URL is longer than {LONGEST_URL} characters")
        if FORBIDDEN.search(url):
            raise ValueError("the URL contains a space, a backslash or a control character")
        match = _URL.fullmatch(url)
        if match is None:
            raise ValueError("the URL must begin with https:// or http://")
        scheme, authority, rest = match.groups()
        host, port = split_authority(authority)
        return cls(scheme.lower(), host, port or _PORTS[scheme.lower()], _as_sent(rest))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.rest}"


class Allowed(msgspec.Struct, frozen=True):
    """What may be dialled in spite of the table: hosts (with one port, or None for any) and whole networks."""

    hosts: frozenset[tuple[str, int | None]] = frozenset()
    networks: tuple[Network, ...] = ()

    def plus(self, entries: Iterable[str]) -> Allowed:
        """Adds entries: `host`, `host:port`, an address, or a network as `address/bits`. ValueError for others."""
        hosts, networks = set(self.hosts), list(self.networks)
        for entry in entries:
            if "/" in entry:
                networks.append(ip_network(entry))
            elif (address := as_address(entry)) is not None:
                hosts.add((str(address), None))
            else:
                hosts.add(split_authority(entry))
        return Allowed(frozenset(hosts), tuple(networks))

    def has_host(self, host: str, port: int) -> bool:
        """Whether this host was allowed by name (or as this very address), for this port or for all ports."""
        return (host, None) in self.hosts or (host, port) in self.hosts

    def has_address(self, address: Address) -> bool:
        """Whether the address may be dialled: it lies in an allowed network, or is public and not our own."""
        return any(address in network for network in self.networks) or (is_public(address) and not is_ours(address))
