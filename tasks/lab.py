"""lab.up, lab.status, lab.down."""

from typing import Any

from cluster.command import LAB, STATE, load_cluster, select_cluster, selected_cluster, task
from cluster.console import Screen
from lab import loopback
from tasks import bring_up

_BEFORE = STATE / "cluster.before-lab"


@task()
def up(screen: Screen) -> dict[str, Any]:
    """Bring up five hosts on this machine, and use them."""
    ports = _ports()
    made = bring_up(ports)
    before = selected_cluster()
    if before != LAB:
        _BEFORE.write_text(before + "\n", encoding="utf-8")
        select_cluster(LAB)
    screen.note(
        f"lab: {len(ports)} hosts {'are up' if made else 'were up already'}; tasks act on them now"
    )
    return {"hosts": ports}


@task()
def status(screen: Screen) -> dict[str, Any]:
    """Show whether these hosts are up."""
    state = loopback.status(STATE / LAB)
    rows = [[host, str(port), "up" if state else "down"] for host, port in _ports().items()]
    screen.table(["host", "ssh port", "state"], rows)
    return {"up": state is not None, **(state or {})}


@task()
def down(screen: Screen) -> dict[str, Any]:
    """Take these hosts down, with all that is on them."""
    was_up = loopback.down(STATE / LAB)
    if _BEFORE.exists():
        select_cluster(_BEFORE.read_text(encoding="utf-8").strip())
        _BEFORE.unlink()
    screen.note(f"lab: {'down' if was_up else 'was not up'}; tasks act on {selected_cluster()} now")
    return {"was_up": was_up}


def _ports() -> dict[str, int]:
    return {host.name: host.ssh_port for host in load_cluster(LAB).hosts}
