"""Pinning of host keys: what each host shows, beside what is pinned; a person decides."""

from collections.abc import Iterable
from typing import NamedTuple

from cluster import hostkeys
from cluster.connection import gateway_of, host_key
from cluster.console import Screen
from cluster.errors import ClusterError
from cluster.fanout import Results, fan_out
from cluster.hostkeys import HostKey
from cluster.inventory import Cluster, Host
from cluster.operator import Operator

_PRINT_OWN = "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"


class Shown(NamedTuple):
    """The key that a host shows, and the one that is pinned for it."""

    host: Host
    key: HostKey
    pinned: HostKey | None

    @property
    def name(self) -> str:
        """What the file of pins calls the host."""
        return hostkeys.name(self.host.address, self.host.ssh_port)

    @property
    def state(self) -> str:
        """What is to be done about it: nothing (pinned), pin it (new), or beware (changed)."""
        if self.pinned is None:
            return "new"
        return "pinned" if self.pinned == self.key else "changed"


def pin_hosts(operator: Operator, *, yes: bool, replace: bool = False) -> dict[str, str]:
    """Pin what the hosts and their gateways show; return the fingerprints that are new here.

    Unless `yes`, a person is shown the fingerprints and asked. Changed keys are pinned only to
    `replace` what is there; otherwise they are a ClusterError, AFTER all others were pinned.
    """
    cluster, screen = operator.cluster, operator.screen
    if operator.dry_run:
        for host in cluster.hosts:
            screen.plan("pin", host.name, f"its host key in {cluster.known_hosts}")
        return {}
    pinned: dict[str, str] = {}
    for hosts in (_gateways(cluster), cluster.hosts):
        results = _survey(cluster, hosts)
        shown: list[Shown] = list(results.values.values())
        states = {"new", "changed"} if replace else {"new"}
        wanted = [one for one in shown if one.state in states]
        if any(one.state != "pinned" for one in shown):
            _show(screen, shown)
        if (
            wanted
            and not yes
            and not screen.confirm(
                f"Pin the keys of {_names(wanted)}? Each machine prints its own for: {_PRINT_OWN}",
                "--yes pins them without a question",
            )
        ):
            why = "nothing was pinned"
            raise ClusterError(why)
        hostkeys.pin(cluster.known_hosts, {one.name: one.key for one in wanted})
        pinned |= {one.host.name: one.key.fingerprint for one in wanted}
        results.require()
        changed = [one for one in shown if one.state == "changed" and one not in wanted]
        if changed:
            names = _names(changed, ",")
            why = (
                f"{names}: the host key has changed, and was not pinned. If you replaced or "
                f"reinstalled the machine: fab trust --replace --limit {names}; if you did not, "
                "somebody is in between"
            )
            raise ClusterError(why)
    return pinned


def _show(screen: Screen, shown: list[Shown]) -> None:
    columns = ["host", "kind", "shows", "state"]
    rows = [[one.host.name, one.key.kind, one.key.fingerprint, one.state] for one in shown]
    if any(one.state == "changed" for one in shown):
        columns.append("pinned is")
        for row, one in zip(rows, shown, strict=True):
            row.append(one.pinned.fingerprint if one.pinned else "")
    screen.table(columns, rows)


def _names(shown: list[Shown], separator: str = ", ") -> str:
    return separator.join(one.host.name for one in shown)


def _gateways(cluster: Cluster) -> tuple[Host, ...]:
    """Return the machines that ssh goes through, each once: to be pinned BEFORE the hosts."""
    found = [gateway for host in cluster.hosts if (gateway := gateway_of(host))]
    return tuple({(one.address, one.ssh_port): one for one in reversed(found)}.values())


def _survey(cluster: Cluster, hosts: Iterable[Host]) -> Results:
    """Ask each host for its key; a host's value is a `Shown`."""

    def look(host: Host) -> Shown:
        name = hostkeys.name(host.address, host.ssh_port)
        pins = {pin.kind: pin for pin in hostkeys.pinned(cluster.known_hosts, name)}
        key = host_key(cluster, host, pins)
        return Shown(host, key, pins.get(key.kind) or next(iter(pins.values()), None))

    return fan_out("ask for its host key", hosts, look)
