"""Tells addresses of the public internet from all others.

Python's `is_global` depends on its version: older ones do not know the later entries
of IANA's registries. So the registries' entries are listed here.
"""

import ipaddress

_V4 = ipaddress.IPv4Network
_V6 = ipaddress.IPv6Network

# IANA's IPv4 Special-Purpose Address Registry, multicast, reserved.
_NOT_PUBLIC_V4 = tuple(
    _V4(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host, at an address that looks public
        "169.254.0.0/16",  # link-local: the metadata services of clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
# The only range that IANA has given out for unicast on the internet...
_GLOBAL_V6 = _V6("2000::/3")
# ...without IANA's IPv6 Special-Purpose Address Registry.
_NOT_PUBLIC_V6 = tuple(
    _V6(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
        "3ffe::/16",  # the former 6bone
    )
)
_MAPPED = _V6("::ffff:0:0/96")
_NAT64 = _V6("64:ff9b::/96")
_SIX_TO_FOUR = _V6("2002::/16")
_ISATAP = (0x00005EFE, 0x02005EFE)  # the upper half of an interface's identifier


def is_public(text: str) -> bool:
    """Whether an IP address belongs to the public internet."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not any(address in each for each in _NOT_PUBLIC_V4)
    number = int(address)
    # Addresses that embed an IPv4 address lead where that one leads.
    if address in _MAPPED or address in _NAT64:
        return is_public(str(ipaddress.IPv4Address(number & 0xFFFFFFFF)))
    if address in _SIX_TO_FOUR:
        embedded = ipaddress.IPv4Address(number >> 80 & 0xFFFFFFFF)
        return is_public(str(embedded))
    if number >> 32 & 0xFFFFFFFF in _ISATAP:
        return False
    return (
        address in _GLOBAL_V6
        and address.is_global
        and not any(address in each for each in _NOT_PUBLIC_V6)
    )
