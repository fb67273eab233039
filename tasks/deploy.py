"""deploy, rollback, releases."""

import getpass
import json
import socket
from datetime import UTC, datetime
from typing import Any

from cluster import release, secret
from cluster.command import LOGS, ROOT, cluster_task, desk
from cluster.errors import HostsFailedError
from cluster.operator import Operator
from cluster.remote import Call


@cluster_task()
def deploy(operator: Operator) -> dict[str, Any]:
    """Push the code; it becomes current on all hosts or on none."""
    built = release.build(ROOT)
    was = release.probe(operator)
    digests = {host: answer["secret"] for host, answer in was.items()}
    delivered = secret.deliver(operator, desk(operator.cluster), digests)
    outcome = release.deploy(operator, built, was)
    _note(operator, "deploy", built.name)
    rows = [[host, built.name, what] for host, what in outcome.items()]
    if not operator.dry_run:
        operator.screen.table(["host", "release", "outcome"], rows)
    return {"release": built.name, "hosts": outcome, "secret_delivered": delivered}


@cluster_task(to="the release to go back to (default: the one before)")
def rollback(operator: Operator, to: str | None = None) -> dict[str, Any]:
    """Go back to the release before, on all hosts."""
    name = release.rollback(operator, to)
    _note(operator, "rollback", name)
    operator.screen.done(f"release {name} is current on all hosts")
    return {"release": name}


@cluster_task()
def releases(operator: Operator) -> dict[str, Any]:
    """List the releases on each host."""
    preview: dict[str, Any] = {"current": None, "previous": None, "staged": []}
    results = operator.each("probe", Call("releases.probe"), preview=preview)
    rows = []
    for host, answer in results.values.items():
        answer.pop("secret", None)  # its digest is nobody's business
        for name in reversed(answer["staged"]):
            marks = [mark for mark in ("current", "previous") if answer[mark] == name]
            rows.append([host, name, ", ".join(marks)])
    operator.screen.table(["host", "release, newest first", ""], rows)
    if results.failures:
        raise HostsFailedError(results.step, results.failures)
    return results.values


def _note(operator: Operator, action: str, name: str) -> None:
    """Append to the log of deploys."""
    if operator.dry_run:
        return
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": f"{getpass.getuser()}@{socket.gethostname()}",
        "cluster": operator.cluster.name,
        "action": action,
        "release": name,
    }
    LOGS.mkdir(exist_ok=True)
    with (LOGS / "deploys.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(entry) + "\n")
