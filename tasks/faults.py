"""fault.kill, fault.pause, fault.power, fault.cut, fault.slow, fault.loss, heal."""

from dataclasses import replace
from typing import Any

from cluster.command import LAB, LOGS, NETNS, cluster_task, load_cluster
from cluster.errors import UsageError
from cluster.faults import DEFAULT_S, LONGEST_S, Fault, note, prove
from cluster.operator import Operator
from cluster.remote import Call
from lab import links
from lab.errors import ChoiceError
from tasks import faults_of

_FOR = f"seconds until the host reverts it by itself, up to {LONGEST_S:g}"
_WAYS = {"": ["in", "out"], "in": ["in"], "out": ["out"]}
_SERVERS, _CLIENTS = "only servers", "only clients"


@cluster_task(servers=_SERVERS, clients=_CLIENTS)
def kill(operator: Operator, *, servers: bool = False, clients: bool = False) -> dict[str, Any]:
    """Kill the servers and clients of hosts, as a crash would."""
    roles = _roles(servers=servers, clients=clients)
    call = Call("faults.kill", {"roles": roles})
    results = operator.each("fault.kill", call, preview={"killed": []})
    killed = {host: answer["killed"] for host, answer in results.values.items()}
    rows = [[host, ", ".join(names) or "nothing ran"] for host, names in killed.items()]
    if not operator.dry_run:
        hit = [host for host, names in killed.items() if names]
        note(LOGS, operator.cluster.name, hit, f"kill of {_named(roles)}", 0.0)
        operator.screen.table(["host", "killed"], rows)
        operator.screen.note("fab start-servers starts servers again")
    results.require("The other hosts have lost theirs.")
    return killed


@cluster_task(servers=_SERVERS, clients=_CLIENTS, for_=_FOR)
def pause(
    operator: Operator, *, servers: bool = False, clients: bool = False, for_: float = DEFAULT_S
) -> dict[str, Any]:
    """Stop servers and clients, and let them go on after a while."""
    roles = _roles(servers=servers, clients=clients)
    return _begin(operator, Fault("pause", f"pause of {_named(roles)}", for_, {"roles": roles}))


@cluster_task(for_=_FOR)
def power(operator: Operator, *, for_: float = DEFAULT_S) -> dict[str, Any]:
    """Cut the power of hosts for a while; netns lab only."""
    if operator.cluster.name != NETNS:
        why = (
            f"nobody here can cut the power of cluster {operator.cluster.name}: "
            "fab lab.up --kind netns makes hosts where that works"
        )
        raise UsageError(why)
    return _begin(operator, Fault("power", "power cut", for_))


@cluster_task(
    peer="only from these hosts, comma-separated (default: from all)",
    one_way="in or out: only what comes to the hosts, or goes from them",
    cable="take the whole cable out, ssh too; netns lab only",
    for_=_FOR,
)
def cut(
    operator: Operator,
    *,
    peer: str = "",
    one_way: str = "",
    cable: bool = False,
    for_: float = DEFAULT_S,
) -> dict[str, Any]:
    """Let no packet pass between hosts and others for a while."""
    if not cable:
        fault = Fault("cut", "cut", for_, {"percent": 100})
        return _begin(operator, _between(operator, fault, peer, one_way))
    if peer or one_way:
        why = "--cable takes all there is: leave out --peer and --one-way"
        raise UsageError(why)
    if operator.cluster.name != NETNS:
        why = (
            f"nobody here can take a cable out in cluster {operator.cluster.name}: leave out "
            "--cable, or fab lab.up --kind netns"
        )
        raise UsageError(why)
    return _begin(operator, Fault("cut", "cut of the cable", for_, {"cable": True}))


@cluster_task(rate="how fast the links are then; of a Pi: what it sends", for_=_FOR)
def slow(operator: Operator, *, rate: str = "10mbit", for_: float = DEFAULT_S) -> dict[str, Any]:
    """Slow the links of hosts down for a while."""
    try:
        settings: dict[str, Any] = {"rate": rate, "rate_bits": links.bits_per_second(rate)}
    except ChoiceError as error:
        why = f"--rate: {error}"
        raise UsageError(why) from error
    settings["peers"] = _peers(operator)
    return _begin(operator, Fault("slow", f"slow link of {rate}", for_, settings))


@cluster_task(percent="how many of a hundred packets", for_=_FOR)
def loss(operator: Operator, *, percent: int = 20, for_: float = DEFAULT_S) -> dict[str, Any]:
    """Lose packets between hosts and others for a while."""
    if not 0 < percent < 100:  # noqa: PLR2004 - that is what a percentage is
        why = f"--percent {percent} is not a number from 1 to 99; fab fault.cut loses all"
        raise UsageError(why)
    fault = Fault("loss", f"loss of {percent} %", for_, {"percent": percent})
    return _begin(operator, _between(operator, fault))


@cluster_task()
def heal(operator: Operator) -> dict[str, Any]:
    """End all faults now, and prove that nothing is left of them."""
    results = faults_of(operator).heal()
    if operator.dry_run:
        return {}
    note(LOGS, operator.cluster.name, results.values, None, 0.0)
    traces = list(dict.fromkeys(name for row in results.values.values() for name in row["left"]))
    rows = [
        [host, ", ".join(row["ended"]) or "nothing", *(row["left"].get(name) for name in traces)]
        for host, row in results.values.items()
    ]
    operator.screen.table(["host", "ended", *traces], rows)
    prove(results)
    operator.screen.note("Nothing is left of any fault.")
    return results.values


def _roles(*, servers: bool, clients: bool) -> list[str]:
    chosen = {"client": clients, "server": servers}
    return [role for role in chosen if chosen[role] or servers == clients]


def _named(roles: list[str]) -> str:
    return " and ".join(f"{role}s" for role in roles)


def _between(operator: Operator, fault: Fault, peer: str = "", one_way: str = "") -> Fault:
    """Return the fault with the hosts and the ways that it stands in."""
    if one_way not in _WAYS:
        why = f"--one-way {one_way} is neither in nor out"
        raise UsageError(why)
    text = fault.text + f" from {peer}" * bool(peer) + f", {one_way} only" * bool(one_way)
    settings = {**fault.settings, "ways": _WAYS[one_way], "peers": _peers(operator, peer)}
    return replace(fault, text=text, settings=settings)


def _peers(operator: Operator, chosen: str = "") -> dict[str, str]:
    """Return the addresses of the hosts that a fault of the network stands against."""
    cluster = operator.cluster
    if cluster.name == LAB:
        why = "the hosts of this lab have no links between them: fab lab.up --kind netns has"
        raise UsageError(why)
    everyone = load_cluster(cluster.name)
    try:
        peers = everyone.limited(chosen or None).hosts
    except UsageError as error:
        raise UsageError(str(error).replace("--limit", "--peer", 1)) from error
    for host in cluster.hosts:
        if {peer.name for peer in peers} <= {host.name}:
            why = f"{host.name} is no peer of its own: name others with --peer"
            raise UsageError(why)
    return {peer.name: peer.address for peer in peers}


def _begin(operator: Operator, fault: Fault) -> dict[str, Any]:
    results = faults_of(operator).begin(fault.checked())
    if results.values and not operator.dry_run:
        note(LOGS, operator.cluster.name, results.values, fault.text, fault.for_s)
        rows = [[host, row["text"], round(row["left_s"])] for host, row in results.values.items()]
        operator.screen.table(["host", "fault", "ends in s"], rows)
        operator.screen.note("fab heal ends all faults now")
    return results.require("The other hosts have theirs." * bool(results.values))
