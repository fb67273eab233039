"""Boot hosts again, and wait until each has come back as another boot."""

import time
from typing import Any

from cluster import remote
from cluster.errors import HostError
from cluster.fanout import Results, fan_out
from cluster.inventory import Host
from cluster.operator import Operator
from cluster.remote import Call

_POLL_S = 1.0
_FACTS = Call("facts.facts")


def reboot(operator: Operator, timeout_s: float) -> Results:
    """Reboot all hosts at once; a host's value is how many seconds it was away.

    A host that is not back after `timeout_s` is a failure.
    """
    before = operator.each("facts", _FACTS, preview={"boot_id": ""}).require()
    operator.each("reboot", Call("power.reboot"), preview={}).require("The others boot again.")
    if operator.dry_run:
        return Results("reboot")
    begun_s = time.monotonic()

    def wait(host: Host) -> float:
        why = "it still answers as the same boot"
        while time.monotonic() < begun_s + timeout_s:
            try:
                if _boot_id(operator, host) != before[host.name]["boot_id"]:
                    return round(time.monotonic() - begun_s, 1)
            except HostError as error:
                why = str(error)
                operator.connection(host).close()
            time.sleep(_POLL_S)
        why = f"not back after {timeout_s:.0f} s: {why}"
        raise HostError(why)

    return fan_out("reboot", operator.cluster.hosts, wait)


def _boot_id(operator: Operator, host: Host) -> Any:
    *_, answer = remote.lines(
        operator.connection(host), host, operator.cluster.name, _FACTS, lambda _: None
    )
    return answer["ok"]["boot_id"]
