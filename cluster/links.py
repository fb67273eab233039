"""How fast the hosts' links are: measured before a run, not believed."""

import ipaddress
import secrets
from typing import Any

from cluster.inventory import Host
from cluster.operator import Operator
from cluster.remote import Call

_PREVIEW = dict.fromkeys(("in_bits_per_s", "segment_bytes", "overhead_bytes"), 0)
_SHIFTS = (1, 2)  # to two others each: so a slow link is told from a fast one to it


def measure(operator: Operator) -> dict[str, dict[str, Any]]:
    """Return of each host what its link takes, in bits of payload a second, `in` and `out`.

    All send and receive at once, as they do in a run. No server may run. Of hosts without links
    between them, on one machine's loopback, nothing is returned.
    """
    hosts = operator.cluster.hosts
    if len(hosts) == 1 or all(_is_loopback(host.address) for host in hosts):
        return {}
    found: dict[str, dict[str, Any]] = {host.name: {} for host in hosts}
    for shift in [shift for shift in _SHIFTS if shift < len(hosts)]:
        receivers = {host: hosts[(at + shift) % len(hosts)] for at, host in enumerate(hosts)}
        answers = operator.each("measure links", _calls(receivers).get, preview=_PREVIEW).require()
        for sender, receiver in receivers.items():
            answer = answers[receiver.name]
            for host, way in ((receiver, "in_bits_per_s"), (sender, "out_bits_per_s")):
                row = found[host.name]
                row[way] = max(row.get(way, 0), answer["in_bits_per_s"])
            for what in ("segment_bytes", "overhead_bytes"):
                found[receiver.name][what] = answer[what]
    return found


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
