"""Whether the hosts are fit for an experiment: how each is, and what is wrong with it."""

from pathlib import Path
from typing import Any

from cluster import secret
from cluster.inventory import Host
from cluster.operator import Operator
from cluster.processes import disagreement
from cluster.release import objection
from cluster.remote import Call

MIN_DISK_FREE_BYTES = 200_000_000
MAX_CLOCK_OFFSET_S = 0.5


def preflight(operator: Operator, desk: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return what each host that answers tells of itself, and a line for each trouble.

    A host's `secret` is then how it compares with the one at the `desk`.
    """
    everyone = operator.cluster.hosts

    def call(host: Host) -> Call:
        peers = {
            other.name: [other.address, other.server_port]
            for other in everyone
            if other != host and other.servers_per_host
        }
        listen = [[host.address, port] for port in host.server_ports]
        return Call("facts.check", {"name": host.name, "listen": listen, "peers": peers})

    answers = operator.each("check", call, preview={})
    if operator.dry_run:
        return {}, []
    digests = {host: facts["secret"] for host, facts in answers.values.items()}
    for host, same in secret.compare(desk, digests).items():
        answers.values[host]["secret"] = same
    troubles = [f"{host}: {why}" for host, why in answers.failures.items()]
    for host, facts in answers.values.items():
        for gone in answers.failures:  # has its own line; nobody could answer there
            facts["reached"].pop(gone, None)
        troubles += [f"{host}: {trouble}" for trouble in _troubles(facts)]
    releases = {host: facts["current"] for host, facts in answers.values.items()}
    if any(releases.values()) and (why := disagreement(releases)):  # before the first deploy: none
        troubles.append(why)
    troubles += filter(None, map(objection, dict.fromkeys(releases.values())))
    return answers.values, troubles


def links(cards: dict[str, dict[str, str | None]]) -> str | None:
    """Return the speed and duplex of each network card that has a link, as "eth0 100 full"."""
    shown = [
        f"{name} {card['speed_mbit']} {card['duplex']}"
        for name, card in cards.items()
        if int(card["speed_mbit"] or -1) > 0
    ]
    return ", ".join(shown) or None


def _troubles(facts: dict[str, Any]) -> list[str]:
    found = []
    for port, state in facts["ports"].items():
        if state != "free" and not facts["serves"]:
            found.append(f"port {port}: {state}; free it, or choose another server_port")
    if lost := [peer for peer, reached in facts["reached"].items() if not reached]:
        ports = "its server port" if len(lost) == 1 else "their server ports"
        found.append(f"does not reach {', '.join(lost)} on {ports}: is a firewall in between?")
    if facts["disk_free_bytes"] < MIN_DISK_FREE_BYTES:
        free_mb = facts["disk_free_bytes"] // 1_000_000
        found.append(f"only {free_mb} MB of disk are free: fab clean")
    if abs(facts["clock_offset_s"]) > MAX_CLOCK_OFFSET_S:
        found.append(f"its clock is {facts['clock_offset_s']:+.1f} s off yours: enable NTP")
    if facts["throttled"] not in (None, "0x0"):
        found.append(f"is throttled ({facts['throttled']}): check power supply and cooling")
    for name, card in facts["network"].items():
        if card["duplex"] == "half":
            found.append(f"{name} runs half duplex: look at its cable and at the switch")
    return found
