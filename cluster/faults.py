"""Faults on purpose: what they are, and the two places where one can be made.

A process is killed or paused on its host. A link is cut, slowed or made to lose packets on its
host too, as root; but where a lab has the hosts' links in its own hands, at that lab's switch. In
both places a fault ends after its time without the operator, and there is one of a kind at a time.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cluster.errors import ClusterError, UsageError
from cluster.fanout import Results, fan_out
from cluster.inventory import Host
from cluster.operator import Operator
from cluster.remote import Call

DEFAULT_S = 30.0
LONGEST_S = 600.0
_ON_THE_HOST = "pause"
_LOG = "faults.jsonl"
_PREVIEW = {"kind": "", "text": "", "until_unix_s": 0.0, "left_s": 0.0, "reverter": True}


@dataclass(frozen=True)
class Fault:
    """What goes wrong on purpose, and for how long."""

    kind: str  # pause, cut, loss, slow, power
    text: str  # the same for people
    for_s: float
    settings: Mapping[str, Any] = field(default_factory=dict)

    def checked(self) -> "Fault":
        """Return the fault; UsageError if it would last too long, or not at all."""
        if not 0 < self.for_s <= LONGEST_S or not math.isfinite(self.for_s):
            why = f"--for {self.for_s:g} is not a number of seconds up to {LONGEST_S:g}"
            raise UsageError(why)
        return self

    def on(self, host: Host) -> dict[str, Any]:
        """Return what the place where it is made needs to know."""
        told = {"kind": self.kind, "text": self.text, "for_s": self.for_s, **self.settings}
        if "peers" in told:
            peers = {name: address for name, address in told["peers"].items() if name != host.name}
            told |= {"peers": peers, "ssh_port": host.ssh_port}
        return told


class Switch(Protocol):
    """A lab that makes the faults of its links and its power itself; all raise HostError."""

    def begin(self, host: str, fault: dict[str, Any]) -> dict[str, Any]:
        """Begin a fault; return it as `active` tells it."""

    def active(self, host: str) -> list[dict[str, Any]]:
        """Return the faults of a host: kind, text, until_unix_s, left_s, reverter."""

    def heal(self, host: str) -> dict[str, Any]:
        """End all faults of a host: `ended`, their texts, and `left`, a number of each trace."""


class Faults:
    """The faults of a cluster, wherever they are made."""

    def __init__(self, operator: Operator, switch: Switch | None) -> None:
        """Act by the operator's hands, and for the network at the lab's `switch` if it has one."""
        self._operator = operator
        self._switch = switch

    def begin(self, fault: Fault, hosts: tuple[Host, ...] | None = None) -> Results:
        """Begin a fault on each host, or on some, as far as it goes."""
        step = f"fault.{fault.kind}"
        if self._switch is None or fault.kind == _ON_THE_HOST:
            return self._operator.each(
                step,
                lambda host: Call("faults.begin", fault.on(host)),
                preview=_PREVIEW,
                hosts=hosts,
            )
        begin = self._switch.begin
        return self._at_switch(
            step,
            lambda host: f"begin {json.dumps(fault.on(host))}",
            lambda host: begin(host.name, fault.on(host)),
            hosts,
        )

    def active(self) -> dict[str, list[dict[str, Any]]]:
        """Return the faults of each host, as far as it can be asked."""
        call = Call("faults.active")
        answers = self._operator.each("faults", call, preview={"faults": []}).values
        found = {host: list(answer["faults"]) for host, answer in answers.items()}
        if self._switch and not self._operator.dry_run:
            for host in self._operator.cluster.hosts:
                found.setdefault(host.name, []).extend(self._switch.active(host.name))
        return found

    def heal(self) -> Results:
        """End all faults; each host's value has `ended`, and in `left` a number of each trace."""
        results = Results("heal")
        if self._switch:  # BEFORE the hosts: now they can be reached
            mend = self._switch.heal
            results = self._at_switch("heal", lambda _: "heal", lambda host: mend(host.name))
        call = Call("faults.heal", {"network": self._switch is None}, timeout_s=60.0)
        preview: dict[str, Any] = {"ended": [], "left": {"reverters": 0}}
        there = self._operator.each("heal", call, preview=preview)
        for host, answer in there.values.items():
            here = results.values.get(host, preview)
            reverters = here["left"]["reverters"] + answer["left"]["reverters"]
            results.values[host] = {
                "ended": [*here["ended"], *answer["ended"]],
                "left": {**here["left"], **answer["left"], "reverters": reverters},
            }
        results.failures |= there.failures
        for host in results.failures:
            results.values.pop(host, None)
        return results

    def _at_switch(
        self,
        step: str,
        describe: Callable[[Host], str],
        work: Callable[[Host], Any],
        hosts: tuple[Host, ...] | None = None,
    ) -> Results:
        hosts = self._operator.cluster.hosts if hosts is None else hosts
        if not self._operator.dry_run:
            return fan_out(step, hosts, work)
        for host in hosts:
            self._operator.screen.plan(step, host.name, f"lab.faults {describe(host)}")
        return Results(step)


def prove(results: Results) -> None:
    """See that nothing is left of any fault; ClusterError names what is, and where."""
    left = [
        f"{host}: left after heal: {count} {trace}"
        for host, answer in results.values.items()
        for trace, count in answer["left"].items()
        if count
    ]
    if left:
        raise ClusterError("\n".join(left))
    results.require("The other hosts are healed.")


def note(logs: Path, cluster: str, hosts: Iterable[str], text: str | None, for_s: float) -> None:
    """Append to this desk's log of faults, in which each run looks for its own; None: healed."""
    now = time.time()
    logs.mkdir(exist_ok=True)
    with (logs / _LOG).open("a", encoding="utf-8") as log:
        for host in hosts:
            times = {"from_unix_s": now, "until_unix_s": now + for_s}
            entry = {"cluster": cluster, "host": host, "text": text, **times}
            log.write(json.dumps(entry) + "\n")


def noted(logs: Path, cluster: str, since_unix_s: float) -> list[dict[str, Any]]:
    """Return the faults of a cluster, as this desk has noted them, that lasted until after then."""
    try:
        lines = (logs / _LOG).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    found: list[dict[str, Any]] = []
    for entry in map(json.loads, lines):
        if entry["cluster"] != cluster:
            continue
        if entry["text"]:
            found.append(entry)
            continue
        for fault in found:
            if fault["host"] == entry["host"]:
                fault["until_unix_s"] = min(fault["until_unix_s"], entry["from_unix_s"])
    return [fault for fault in found if fault["until_unix_s"] > since_unix_s]
