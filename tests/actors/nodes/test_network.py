"""The interface is that of the route, not of the machine's name."""

import socket

import psutil
import pytest

from isentropic.actors.nodes.network import interface_towards


def test_the_loopback_leads_to_this_machine():
    assert interface_towards("tcp://127.0.0.1:29500") == "lo"


def test_the_route_to_another_address_is_one_of_its_own():
    """192.0.2.1 is nobody's; nothing is sent to it."""
    try:
        name = interface_towards("tcp://192.0.2.1:29500")
    except OSError:
        pytest.skip("this machine has no route to other networks")
    own = [each.address for each in psutil.net_if_addrs()[name] if each.family == socket.AF_INET]
    assert own and not own[0].startswith("127.")
