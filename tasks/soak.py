"""soak."""

import json
import math
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.history import OK
from cluster import collect as collecting
from cluster import fault_presets, release, runs
from cluster.command import LOGS, ROOT, cluster_task
from cluster.console import LogScreen, Screen, show_flaws
from cluster.errors import ClusterError, UsageError, VerdictError
from cluster.operator import Operator
from cluster.options import ClientOptions, ServerOptions, option
from cluster.roster import roster
from tasks import nemesis_of, perform

_now_s = time.monotonic
HISTORIES = "hosts/*/history*.bin"


@dataclass(frozen=True)
class SoakOptions(ClientOptions):
    """What every client of a soak is started with: as in a run, but longer."""

    duration: float = option(180.0, "seconds that each run lasts")
    seed: int | None = option(None, "of the first run; each next one has the next")


@cluster_task(
    takes=SoakOptions,
    hours="begin no run after so many hours",
    faults=f"what goes wrong on purpose: {fault_presets.NAMES}, or a file of deeds",
    durable="servers keep on disk whatever they promise",
    workers="threads of each server",
)
def soak(  # noqa: PLR0913 - each is an option
    operator: Operator,
    *,
    options: SoakOptions,
    hours: float = 1.0,
    faults: str = "rough",
    durable: bool = False,
    workers: int = 1,
) -> dict[str, Any]:
    """Run with faults again and again, until a verdict is bad.

    Each run has a seed of its own, which is shown. The first that breaks a promise, or does not
    come to its end, is the last: all of it stays, here and on the hosts. What a good one leaves on
    the hosts is removed, and its histories are here, too.
    """
    if not 0 < hours < math.inf:
        why = f"--hours {hours:g} is not a positive number"
        raise UsageError(why)
    checked = options.checked(roster(operator.cluster))
    servers = ServerOptions(workers, checked.trace, durable).checked()
    if operator.dry_run:
        nemesis = nemesis_of(operator, faults, checked, durable=durable)
        return perform(operator, servers, checked, _show, nemesis=nemesis)
    nemesis_of(operator, faults, checked, durable=durable)  # BEFORE the first: a mistake in a file
    built = release.build(ROOT)
    folder = LOGS / f"soak-{runs.stamp(operator.cluster)}"
    folder.mkdir(parents=True)
    where = folder.relative_to(ROOT)
    operator.screen.note(f"release {built.name} · what each run says: {where}/runs.log")
    rows: list[dict[str, Any]] = []
    end_s = _now_s() + hours * 3600
    with (folder / "runs.log").open("w", encoding="utf-8") as log:
        quiet = LogScreen(log)
        part = Operator(operator.cluster, quiet)
        assert checked.seed is not None  # they were checked
        try:
            with operator.screen.soaking(hours) as view:
                while not rows or _now_s() < end_s:
                    chosen = replace(checked, seed=checked.seed + len(rows))
                    nemesis = nemesis_of(part, faults, chosen, durable=durable)
                    view.begin(quiet, chosen.seed, nemesis.report.made)
                    violation: VerdictError | None = None
                    try:
                        summary = perform(
                            part, servers, chosen, _show, built=built, nemesis=nemesis
                        )
                    except VerdictError as error:
                        violation, summary = error, error.result
                    rows.append(_row(summary, chosen))
                    view.end(rows[-1])
                    _keep(folder, rows)
                    if violation:
                        raise violation
                    _tidy(part, summary)
        except VerdictError as error:
            raise VerdictError(_kept(str(error)), _told(rows)) from error
        except ClusterError as error:
            raise ClusterError(_kept(str(error))) from error
        finally:
            operator.screen.note(_sentence(rows))
    return _told(rows)


def _row(summary: dict[str, Any], options: ClientOptions) -> dict[str, Any]:
    """Return what is told of a run that has ended."""
    faults = summary["faults"]
    return {
        "run": summary["run"],
        "seed": options.seed,
        "commands": summary["commands"],
        "unknown": summary["unknown"],
        "faults": faults["made"],
        "verdict": summary["verdict"]["verdict"],
        "worst_recovery_s": faults["worst_recovery_s"],
    }


def _tidy(operator: Operator, summary: dict[str, Any]) -> None:
    """Remove what a good run has left on the hosts; of one that is ok, its histories here too."""
    collecting.purge(operator, {host.name: [summary["run"]] for host in operator.cluster.hosts})
    if summary["verdict"]["verdict"] == OK:
        for path in (LOGS / summary["run"]).glob(HISTORIES):
            path.unlink()


def _keep(folder: Path, rows: list[dict[str, Any]]) -> None:
    text = json.dumps(_told(rows), indent=2) + "\n"
    (folder / "soak.json").write_text(text, encoding="utf-8")


def _told(rows: list[dict[str, Any]]) -> dict[str, Any]:
    faults: Counter[str] = Counter()
    for row in rows:
        faults.update(row["faults"])
    return {
        "runs": rows,
        "commands": sum(row["commands"] for row in rows),
        "faults": dict(sorted(faults.items())),
        "verdicts": dict(Counter(row["verdict"] for row in rows)),
        "worst_recovery_s": max((row["worst_recovery_s"] or 0.0 for row in rows), default=None),
    }


def _sentence(rows: list[dict[str, Any]]) -> str:
    told = _told(rows)
    faults = told["faults"]
    kinds = ", ".join(f"{kind} {times:,}" for kind, times in faults.items()) or "none"
    verdicts = ", ".join(f"{name} {times}" for name, times in told["verdicts"].items()) or "none"
    ended = f"{len(rows)} run{'s' * (len(rows) != 1)} ended · {told['commands']:,} commands"
    return f"{ended} · {sum(faults.values()):,} faults ({kinds}) · verdicts: {verdicts}"


def _kept(why: str) -> str:
    return f"{why}\nAll of it is kept, in logs/latest and on the hosts; fab report draws it."


def _show(screen: Screen, summary: dict[str, Any], _rows: list[dict[str, Any]]) -> None:
    show_flaws(screen, summary)
