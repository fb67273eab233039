"""use, trust, setup, check, reboot."""

import os
from collections.abc import Callable
from typing import Any

from cluster import preflight, processes, runs, secret
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

_VARIABLE = "RDHT_PASSWORD"  # for setup where nobody can be asked


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
    facts, troubles = preflight.preflight(operator, desk(operator.cluster))
    if operator.dry_run:
        return {}
    columns: dict[str, Callable[[dict[str, Any]], Any]] = {
        "model": lambda row: row["model"],
        "python": lambda row: row["python"],
        "cores": lambda row: row["cores"],
        "disk MB": lambda row: row["disk_free_bytes"] // 1_000_000,
        "memory MB": lambda row: (row["memory_free_bytes"] or 0) // 1_000_000,
        "clock ms": lambda row: round(row["clock_offset_s"] * 1000, 1),
        "governor": lambda row: row["governor"],
        "°C": lambda row: row["temperature_c"],
        "throttled": lambda row: row["throttled"],
        "Mbit/s": lambda row: preflight.links(row["network"]),
        "release": lambda row: row["current"],
        "secret": lambda row: row["secret"],
        "reaches": lambda row: f"{sum(row['reached'].values())} of {len(row['reached'])}",
    }
    rows = [[host, *(read(row) for read in columns.values())] for host, row in facts.items()]
    operator.screen.table(["host", *columns], rows)
    if troubles:
        raise ClusterError("\n".join(troubles))
    operator.screen.note("All hosts are fit.")
    return facts


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
