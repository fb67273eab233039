"""How fast the hosts' links are: measured before a run, not believed."""

import ipaddress
import secrets
from typing import Any

from cluster.inventory import Host
from cluster.operator import Operator
from cluster.remote import Call

_PREVIEW = dict.fromkeys(("in_bits_per_s", "overhead_bytes"), 0)
_FEWEST, _MOST = 2, 4  # others that each host sends to
_SAME_RATE = 0.8  # of the fastest: a link that is slower may only have met slow ones


def measure(operator: Operator) -> dict[str, dict[str, Any]]:
    """Return of each host of an experiment what its link takes, in bits a second, `in` and `out`.

    All send and receive at once, as they do in a run, with headers and acknowledgements counted. No
    server may run. Of hosts without links between them, on one machine's loopback, nothing is
    returned.
    """
    hosts = [
        host for host in operator.cluster.hosts if host.servers_per_host or host.clients_per_host
    ]
    if len(hosts) < _FEWEST or all(_is_loopback(host.address) for host in hosts):
        return {}
    found: dict[str, dict[str, Any]] = {host.name: {} for host in hosts}
    for shift in range(1, min(_MOST + 1, len(hosts))):
        if shift > _FEWEST and not _met_slow_ones(found):
            break
        receivers = {host: hosts[(at + shift) % len(hosts)] for at, host in enumerate(hosts)}
        calls = _calls(receivers)
        answers = operator.each(
            "measure links", calls.get, preview=_PREVIEW, hosts=tuple(hosts)
        ).require()
        for sender, receiver in receivers.items():
            answer = answers[receiver.name]
            for host, way in ((receiver, "in_bits_per_s"), (sender, "out_bits_per_s")):
                row = found[host.name]
                row[way] = max(row.get(way, 0), answer["in_bits_per_s"])
            found[receiver.name]["overhead_bytes"] = answer["overhead_bytes"]
    return found


def _met_slow_ones(found: dict[str, dict[str, Any]]) -> bool:
    rates: list[int] = [
        row[way] for row in found.values() for way in ("in_bits_per_s", "out_bits_per_s")
    ]
    return min(rates) < _SAME_RATE * max(rates)


def _calls(receivers: dict[Host, Host]) -> dict[Host, Call]:
    token = secrets.token_hex(16)
    return {
        host: Call(
            "links.measure",
            {
                "listen": [host.address, host.server_port],
                "peer": [peer.address, peer.server_port],
                "token": token,
            },
        )
        for host, peer in receivers.items()
    }


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:  # a name
        return False
