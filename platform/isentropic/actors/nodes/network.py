"""Finds the network that the ranks of several nodes share."""

import socket
from urllib.parse import urlsplit

import psutil


def interface_towards(address: str) -> str:
    """Returns the network interface from which this machine reaches an address, tcp://host:port.

    Left alone, gloo takes the address of the machine's own name. Debian writes 127.0.1.1 for it
    into /etc/hosts: ranks of two nodes would never meet.
    """
    url = urlsplit(address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect((url.hostname, url.port))  # sends nothing
        own = route.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == own for each in addresses):
            return name
    raise RuntimeError(
        f"no network interface of this machine has the address {own}, from which it reaches "
        f"{address}. Set GLOO_SOCKET_IFNAME to the interface that the ranks share."
    )
