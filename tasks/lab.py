"""lab.up, lab.status, lab.down."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from cluster import inventory, namespace
from cluster.command import (
    INVENTORY,
    LAB,
    NETNS,
    STATE,
    load_cluster,
    made_inventory,
    select_cluster,
    selected_cluster,
    task,
)
from cluster.console import Screen
from cluster.errors import UsageError
from lab import holder, loopback, netns
from lab.errors import LabError
from tasks import bring_up, lab_errors

_BEFORE = STATE / "cluster.before-lab"


@task(
    kind="loopback, or netns: real sshd and links; needs Linux",
    hosts="netns: how many (default: the five of inventory/netns.yaml)",
    rate="netns: how fast each link is",
    delay="netns: how long a packet takes on each link",
)
def up(
    screen: Screen,
    *,
    kind: str = "loopback",
    hosts: int = 0,
    rate: str = netns.DEFAULT_RATE,
    delay: str = netns.DEFAULT_DELAY,
) -> dict[str, Any]:
    """Bring up hosts on this machine, and use them."""
    found: dict[str, Any]
    match kind:
        case "loopback":
            if (hosts, rate, delay) != (0, netns.DEFAULT_RATE, netns.DEFAULT_DELAY):
                why = "--hosts, --rate and --delay are for --kind netns: loopback has no choice"
                raise UsageError(why)
            found = _ports()
            made = bring_up(found)
            _use(LAB)
        case "netns":
            found, made = _bring_up_netns(hosts, rate, delay)
            _use(NETNS)
        case _:
            why = f"--kind {kind} is neither loopback nor netns"
            raise UsageError(why)
    state = "are up" if made else "were up already"
    screen.note(f"lab: {len(found)} hosts {state}; tasks act on them now")
    return {"hosts": found}


@task()
def status(screen: Screen) -> dict[str, Any]:
    """Show which of these hosts are up."""
    here = loopback.status(STATE / LAB)
    rows: list[list[object]] = [
        ["loopback", host, f"{loopback.ADDRESS}:{port}", "up" if here else "down", None, None]
        for host, port in _ports().items()
    ]
    with lab_errors():
        _join_holder()
        there = netns.status(STATE / NETNS)
    for host, found in there["hosts"].items() if there else ():
        state = "up" if found["power"] else "without power"
        cable = "in" if found["cable"] else "out"
        rows.append(["netns", host, f"{found['address']}:22", state, cable, found["rate"]])
    screen.table(["lab", "host", "ssh", "state", "cable", "rate"], rows)
    if there:
        if there["delay_s"]:
            screen.note(f"A packet takes {there['delay_s'] * 1000:g} ms on each link.")
        screen.note(f"The operator's network namespace is {there['operator']}.")
    return {"loopback": here, "netns": there}


@task()
def down(screen: Screen) -> dict[str, Any]:
    """Take these hosts down, with all that is on them."""
    was_up = loopback.down(STATE / LAB)
    with lab_errors():
        _join_holder()
        was_up |= netns.down(STATE / NETNS)
        holder.finish(STATE / NETNS)
    if _BEFORE.exists():
        select_cluster(_BEFORE.read_text(encoding="utf-8").strip())
        _BEFORE.unlink()
    screen.note(f"lab: {'down' if was_up else 'was not up'}; tasks act on {selected_cluster()} now")
    return {"was_up": was_up}


def _use(cluster: str) -> None:
    """Select a lab, and remember what was selected before there was any."""
    before = selected_cluster()
    if before == cluster:
        return
    if before not in (LAB, NETNS):
        _BEFORE.write_text(before + "\n", encoding="utf-8")
    select_cluster(cluster)


def _bring_up_netns(count: int, rate: str, delay: str) -> tuple[dict[str, str], bool]:
    """Make the hosts of the lab's inventory, or that many; these get an inventory of their own."""
    ours = inventory.load(INVENTORY / f"{NETNS}.yaml").hosts
    with lab_errors():
        hosts = {host.name: host.address for host in ours}
        if count not in (0, len(ours)):
            hosts = netns.addresses(count)
        if why := netns.missing():
            raise LabError(why)
        with _as_root():
            made = netns.up(STATE / NETNS, hosts, rate, delay)
    path = made_inventory(NETNS)
    if count not in (0, len(ours)) and not path.exists():
        document = {
            "known_hosts": "known_hosts",
            "network_namespace": "operator",
            "defaults": {"identity_file": "id_ed25519"},
            "hosts": {host: {"address": address} for host, address in hosts.items()},
        }
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return hosts, made


@contextmanager
def _as_root() -> Iterator[None]:
    """Be able to make the lab: without root in namespaces that are made now if there are none.

    If the body fails, those that were made now go.
    """
    if holder.find(STATE / NETNS) or os.geteuid() == 0:
        _join_holder()
        if holder.has_joined() and not holder.find(STATE / NETNS):
            why = "this command has taken down the lab that it had joined: type lab.up anew"
            raise LabError(why)
        yield
        return
    netns.status(STATE / NETNS)  # BEFORE anything is made: LabError if the lab there is root's
    try:
        namespace.join(holder.start(STATE / NETNS))
        yield
    except BaseException:
        holder.finish(STATE / NETNS)
        raise


def _join_holder() -> None:
    """Join the namespaces of a lab that was made without root, if there are any."""
    keeper = holder.find(STATE / NETNS)
    if keeper and os.geteuid():
        namespace.join(keeper)
    elif keeper and not holder.has_joined():
        why = "the lab was made without root: act on it without sudo"
        raise LabError(why)


def _ports() -> dict[str, int]:
    return {host.name: host.ssh_port for host in load_cluster(LAB).hosts}
