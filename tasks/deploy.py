"""deploy, rollback, releases."""

import json
from datetime import UTC, datetime
from typing import Any

from cluster import deploy_lock, experiment, release
from cluster.command import LOGS, ROOT, cluster_task, desk
from cluster.errors import HostsFailedError
from cluster.operator import Operator
from cluster.remote import Call

_BREAK_LOCK = "go on where somebody's deploy was left unfinished"


@cluster_task(break_lock=_BREAK_LOCK)
def deploy(operator: Operator, *, break_lock: bool = False) -> dict[str, Any]:
    """Push the code; it becomes current on all hosts or on none."""
    built = release.build(ROOT)
    here = desk(operator.cluster)
    outcome, delivered = experiment.deploy(operator, built, here, break_lock=break_lock)
    _note(operator, "deploy", built.name)
    rows = [[host, built.name, what] for host, what in outcome.items()]
    if not operator.dry_run:
        operator.screen.table(["host", "release", "outcome"], rows)
    return {"release": built.name, "hosts": outcome, "secret_delivered": delivered}


@cluster_task(to="the release to go back to (default: the one before)", break_lock=_BREAK_LOCK)
def rollback(
    operator: Operator, to: str | None = None, *, break_lock: bool = False
) -> dict[str, Any]:
    """Go back to the release before, on all hosts."""
    name = release.rollback(operator, to, break_lock=break_lock)
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
        if held := answer.pop("lock", None):
            operator.screen.warn(f"{host}: deploy lock: {deploy_lock.describe(held)}")
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
        "who": deploy_lock.who(),
        "cluster": operator.cluster.name,
        "action": action,
        "release": name,
    }
    LOGS.mkdir(exist_ok=True)
    with (LOGS / "deploys.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(entry) + "\n")
