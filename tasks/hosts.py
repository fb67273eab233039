"""use, trust, setup, check, reboot."""

import os
from collections.abc import Callable
from typing import Any

from cluster import processes, runs, secret
from cluster import reboot as rebooting
from cluster import setup as preparing
from cluster import trust as trusting
from cluster.command import (
    LOGS,
    STATE,
    cluster_task,
    desk,
    load_cluster,
    select_cluster,
    selected_cluster,
    task,
)
from cluster.console import Screen
from cluster.errors import ClusterError, LoginRefusedError, VerdictError
from cluster.inventory import Host
from cluster.operator import Operator
from cluster.remote import Call

_VARIABLE = "RDHT_PASSWORD"  # for setup where nobody can be asked
MIN_DISK_FREE_BYTES = 200_000_000
MAX_CLOCK_OFFSET_S = 0.5


@task(cluster="lab, pis, or another file in inventory/")
def use(screen: Screen, cluster: str) -> dict[str, Any]:
    """Choose the cluster that tasks act on."""
    chosen = load_cluster(cluster)
    select_cluster(chosen.name)
    screen.note(f"tasks act on {chosen.name} now: {', '.join(host.name for host in chosen.hosts)}")
    if selected_cluster() != chosen.name:
        screen.warn(f"but RDHT_CLUSTER={selected_cluster()} is set, and wins")
    return {"cluster": chosen.name}


@cluster_task(
    yes="pin new keys without asking",
    replace="pin changed keys, too",
)
def trust(operator: Operator, *, yes: bool = False, replace: bool = False) -> dict[str, Any]:
    """Pin the hosts' ssh keys, after showing their fingerprints."""
    return trusting.pin_hosts(operator, yes=yes, replace=replace)


@cluster_task(
    yes="pin new host keys without asking",
    apt="install Python on hosts that have none (needs sudo there)",
)
def setup(operator: Operator, *, yes: bool = False, apt: bool = False) -> dict[str, Any]:
    """Make new hosts usable: ssh keys, Python, folders, the secret."""
    cluster = operator.cluster
    own = sorted({host.identity_file for host in cluster.hosts if host.identity_file})
    for path in [] if operator.dry_run else own:
        if preparing.make_identity(path, STATE):
            operator.screen.note(f"made a key for these hosts: {path}")
    pinned = trusting.pin_hosts(operator, yes=yes)
    strangers = [] if operator.dry_run else preparing.without_login(operator)
    _bring_key(operator, strangers)
    answers = preparing.prepare(operator, apt=apt)
    digests = {host: answer["secret"] for host, answer in answers.items()}
    delivered = secret.deliver(operator, desk(cluster), digests)
    if operator.dry_run:
        return {}
    keyed = {host.name for host in strangers}
    done = {
        host: {
            "host key": "pinned" if host in pinned else "was pinned",
            "your key": "brought" if host in keyed else "was there",
            "folders": "made" if answer["made"] else "were there",
            "secret": "brought" if host in delivered else "was there",
        }
        for host, answer in answers.items()
    }
    columns = ["host key", "your key", "folders", "secret"]
    rows = [[host, *(what[column] for column in columns)] for host, what in done.items()]
    operator.screen.table(["host", *columns], rows)
    if pinned or keyed or delivered or any(answer["made"] for answer in answers.values()):
        operator.screen.note("The hosts are set up; fab check looks at all the rest.")
    else:
        operator.screen.note("All hosts were set up already; nothing was changed.")
    return done


def _bring_key(operator: Operator, strangers: list[Host]) -> None:
    """Bring our key by the user's own ones, else by a password that is asked for once."""
    results = preparing.authorize(operator, strangers)
    refused = [
        host for host in strangers if isinstance(results.failures.get(host.name), LoginRefusedError)
    ]
    if refused:
        for host in refused:
            del results.failures[host.name]
        password = os.environ.get(_VARIABLE) or operator.screen.ask_password(
            f"Password of {refused[0].user} on {', '.join(host.name for host in refused)}",
            f"give it in the environment variable {_VARIABLE}",
        )
        results.failures |= preparing.authorize(operator, refused, password).failures
    results.require()


@cluster_task(
    wait="seconds until every host must be back",
    force="reboot although processes of the cluster run",
)
def reboot(operator: Operator, *, wait: float = 180.0, force: bool = False) -> dict[str, Any]:
    """Reboot the hosts, and wait until all are back."""
    busy = [host for host, rows in processes.running(operator).items() if rows]
    if busy and not force:
        why = f"processes run on {', '.join(busy)}: fab stop comes first, or --force"
        raise ClusterError(why)
    results = rebooting.reboot(operator, wait)
    rows = [[host, away_s] for host, away_s in results.values.items()]
    if not operator.dry_run:
        operator.screen.table(["host", "back after s"], rows)
    return results.require()


@cluster_task(replicas="compare the replicas of all keys on the running servers instead")
def check(operator: Operator, *, replicas: bool = False) -> dict[str, Any]:
    """Check that the hosts are fit for an experiment."""
    if replicas:
        return _check_replicas(operator)
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
        return {}
    digests = {host: facts["secret"] for host, facts in answers.values.items()}
    for host, same in secret.compare(desk(operator.cluster), digests).items():
        answers.values[host]["secret"] = same
    running = operator.each("status", Call("processes.status"), preview={}).values
    troubles = [f"{host}: {why}" for host, why in answers.failures.items()]
    for host, facts in answers.values.items():
        processes_here = running.get(host, {"processes": []})["processes"]
        ours = any(row["role"] == "server" for row in processes_here)
        for gone in answers.failures:  # has its own line; nobody could answer there
            facts["reached"].pop(gone, None)
        troubles += [f"{host}: {trouble}" for trouble in _troubles(facts, ours=ours)]
    columns: dict[str, Callable[[dict[str, Any]], Any]] = {
        "model": lambda facts: facts["model"],
        "python": lambda facts: facts["python"],
        "cores": lambda facts: facts["cores"],
        "disk MB": lambda facts: facts["disk_free_bytes"] // 1_000_000,
        "memory MB": lambda facts: (facts["memory_free_bytes"] or 0) // 1_000_000,
        "clock ms": lambda facts: round(facts["clock_offset_s"] * 1000, 1),
        "governor": lambda facts: facts["governor"],
        "°C": lambda facts: facts["temperature_c"],
        "throttled": lambda facts: facts["throttled"],
        "Mbit/s": lambda facts: _speeds(facts["network"]),
        "secret": lambda facts: facts["secret"],
        "reaches": lambda facts: f"{sum(facts['reached'].values())} of {len(facts['reached'])}",
    }
    rows = [
        [host, *(read(facts) for read in columns.values())]
        for host, facts in answers.values.items()
    ]
    operator.screen.table(["host", *columns], rows)
    if troubles:
        raise ClusterError("\n".join(troubles))
    operator.screen.note("All hosts are fit.")
    return answers.values


def _speeds(cards: dict[str, dict[str, str | None]]) -> str | None:
    """Return the speed of each network card that knows it."""
    speeds = {name: int(card["speed_mbit"] or -1) for name, card in cards.items()}
    return ", ".join(f"{name} {speed}" for name, speed in speeds.items() if speed > 0) or None


def _troubles(facts: dict[str, Any], *, ours: bool) -> list[str]:
    found = []
    for port, state in facts["ports"].items():
        if state != "free" and not ours:
            found.append(f"port {port}: {state}; free it, or choose another server_port")
    for peer, reached in facts["reached"].items():
        if not reached:
            found.append(f"does not reach {peer} on its server port: is a firewall in between?")
    if facts["disk_free_bytes"] < MIN_DISK_FREE_BYTES:
        free_mb = facts["disk_free_bytes"] // 1_000_000
        found.append(f"only {free_mb} MB of disk are free: fab clean")
    if abs(facts["clock_offset_s"]) > MAX_CLOCK_OFFSET_S:
        found.append(f"its clock is {facts['clock_offset_s']:+.1f} s off yours: enable NTP")
    if facts["throttled"] not in (None, "0x0"):
        found.append(f"is throttled ({facts['throttled']}): check power supply and cooling")
    return found


def _check_replicas(operator: Operator) -> dict[str, Any]:
    found = processes.complete_server_run(operator)
    verdict = processes.verify(operator, runs.load(LOGS, found.run))
    differing = verdict["differing"]
    operator.screen.table(
        ["key", "servers"], [[row["key"], ", ".join(row["servers"])] for row in differing]
    )
    if differing:
        why = f"{len(differing)} of {verdict['keys']} keys differ between their replicas"
        raise VerdictError(why)
    operator.screen.note(f"{verdict['keys']:,} keys are equal on both replicas.")
    return verdict
