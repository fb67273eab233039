"""fault.matrix, fault.mutants."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

from cluster import experiment, release, runs
from cluster.command import LAB, LOGS, ROOT, cluster_task, desk
from cluster.errors import ClusterError, UsageError, VerdictError
from cluster.operator import Operator
from cluster.release import Release
from faultbuild.mutants import ALL, Mutant
from matrix import campaign
from matrix.campaign import Batch, Campaign
from matrix.mistakes import SHOWN_BY
from matrix.team import KEPT, Outcome
from rdht.records import write_json
from tasks import faults_of

_PATIENCE_S = 240.0  # for one mistake
_SEEN_LETTERS = 240
_ONLY_MUTANTS = "only mistakes in whose name this is"
_ONLY = 'only cells in whose text this is, such as "fast memory: REQUEST" or "kill client"'


@cluster_task(only=_ONLY)
def matrix(operator: Operator, *, only: str = "") -> dict[str, Any]:
    """Let each party fail at each message, and judge it.

    Deploys a fault build, and in the end the release of this checkout. Five hosts do one cell after
    the other, ten two at once, and so on. Exit code 3 if the table did not keep a promise in one of
    them, or if the point of one was not reached.
    """
    _refuse_without_links(operator)
    count = campaign.check(operator)
    work = campaign.batches(only, count)
    total = sum(len(batch.cells) for batch in work)
    if operator.dry_run:
        rows = [[one.profile, one.mode, str(cell)] for one in work for cell in one.cells]
        operator.screen.table(["profile", "mode", "cell"], rows)
        operator.screen.note(f"{total} cells by {_teams(count)}")
        return {"cells": total}
    built = release.build_fault(ROOT)
    folder = _folder(operator, "matrix")
    operator.screen.note(f"release {built.name} · {total} cells by {_teams(count)}")
    plan = Campaign(operator, faults_of, desk(operator.cluster), folder)
    found: list[tuple[Batch, Outcome]] = []
    began_s = time.monotonic()
    with _deployed(operator, built), operator.screen.counting(total) as advance:

        def do(batch: Batch, team: Operator) -> None:
            def goes_on(outcome: Outcome) -> bool:
                advance()
                if outcome.outcome != KEPT:
                    operator.screen.warn(f"{batch.profile} {batch.mode}: {_told(outcome)}")
                return True

            try:
                outcomes = plan.carry_out(batch, built, team, goes_on)
            except ClusterError as error:
                why = f"{batch.profile} {batch.mode}: {error}"
                raise ClusterError(why) from error
            found.extend((batch, one) for one in outcomes)
            write_json(folder / "matrix.json", _document(found))

        plan.share(work, do)
    took_s = time.monotonic() - began_s
    return _conclude(operator, found, total, f"{folder.relative_to(ROOT)}", took_s)


@cluster_task(only=_ONLY_MUTANTS)
def mutants(operator: Operator, *, only: str = "") -> dict[str, Any]:
    """Deploy each known mistake, and see that it is caught.

    Whoever believes a verdict must have seen it find something. A mistake is a fault build with one
    rule of two-phase commit broken; cells of the matrix are carried out with it until one is not
    kept. In the end the release of this checkout is deployed. Exit code 3 if one was not caught.
    """
    chosen = {name: ALL[name] for name in SHOWN_BY if only in name}
    if not chosen:
        why = f"--only {only!r} is in the name of no mistake; there are: {', '.join(SHOWN_BY)}"
        raise UsageError(why)
    count = campaign.check(operator)
    if operator.dry_run:
        rows = [[one.name, one.description, _where(SHOWN_BY[one.name])] for one in chosen.values()]
        operator.screen.table(["mistake", "what is wrong", "looked for in"], rows)
        return {"mutants": list(chosen)}
    folder = _folder(operator, "mutants")
    operator.screen.note(f"{len(chosen)} mistakes by {_teams(count)}")
    plan = Campaign(operator, faults_of, desk(operator.cluster), folder)
    found: list[dict[str, Any]] = []
    with (
        _deployed(operator, release.build_fault(ROOT)),
        operator.screen.counting(len(chosen)) as advance,
    ):

        def do(mutant: Mutant, team: Operator) -> None:
            built = release.build_fault(ROOT, mutant.name)
            experiment.deploy(team, built, desk(team.cluster))
            batch = SHOWN_BY[mutant.name]
            caught, took_s = plan.hunt(batch, built, team, _PATIENCE_S)
            row = {
                "mutant": mutant.name,
                "description": mutant.description,
                "release": built.name,
                "profile": batch.profile,
                "mode": batch.mode,
                "caught": caught is not None,
                "took_s": round(took_s, 1),
                "cell": str(caught.cell) if caught else "",
                "why": caught.why if caught else "",
            }
            found.append(row)
            write_json(folder / "mutants.json", {"mutants": found})
            advance()

        plan.share(list(chosen.values()), do)
    rows = [
        [row["mutant"], row["description"], _seen(row), f"{row['took_s']:.0f} s"] for row in found
    ]
    operator.screen.table(["mistake", "what is wrong", "caught by", "after"], rows)
    document = {"mutants": found}
    missed = [row["mutant"] for row in found if not row["caught"]]
    operator.screen.note(
        f"{len(found) - len(missed)} of {len(chosen)} mistakes caught · {folder.relative_to(ROOT)}"
    )
    if missed:
        why = f"not caught: {', '.join(missed)}"
        raise VerdictError(why, document)
    return document


def _where(batch: Batch) -> str:
    return f"{batch.profile}, {batch.mode}: " + " / ".join(map(str, batch.cells))


def _seen(row: dict[str, Any]) -> str:
    if not row["caught"]:
        return "NOT CAUGHT"
    seen = shorten(row["why"], _SEEN_LETTERS, placeholder=" …")
    return f"{row['profile']}, {row['mode']}; {row['cell']}: {seen}"


def _folder(operator: Operator, what: str) -> Path:
    folder = LOGS / f"{what}-{runs.stamp(operator.cluster)}"
    folder.mkdir(parents=True)
    return folder


def _teams(count: int) -> str:
    return f"{count} team{'s' * (count != 1)}"


@contextmanager
def _deployed(operator: Operator, built: Release) -> Iterator[None]:
    """Deploy a fault build, and whatever happens take it away again."""
    try:
        experiment.deploy(operator, built, desk(operator.cluster))
        yield
    finally:
        experiment.deploy(operator, release.build(ROOT), desk(operator.cluster))


def _conclude(
    operator: Operator, found: list[tuple[Batch, Outcome]], total: int, where: str, took_s: float
) -> dict[str, Any]:
    for (profile, mode), (columns, rows) in campaign.tables(found).items():
        operator.screen.note(f"{profile}, {mode}")
        operator.screen.table(columns, rows)
    bad = [(batch, one) for batch, one in found if one.outcome != KEPT]
    for batch, one in bad:
        operator.screen.warn(f"{batch.profile} {batch.mode}: {_told(one)}")
    kept = len(found) - len(bad)
    operator.screen.note(f"{kept} of {total} cells kept, in {took_s / 60:.1f} minutes · {where}")
    document = _document(found)
    if bad:
        why = f"{len(bad)} of {total} cells are not kept"
        raise VerdictError(why, document)
    return document


def _told(outcome: Outcome) -> str:
    return f"{outcome.cell}: {outcome.outcome}" + f": {outcome.why}" * bool(outcome.why)


def _document(found: list[tuple[Batch, Outcome]]) -> dict[str, Any]:
    cells = [
        {
            "profile": batch.profile,
            "mode": batch.mode,
            "message": one.cell.message,
            "moment": one.cell.place.when,
            "party": one.cell.place.party,
            "fault": one.cell.fault,
            "outcome": one.outcome,
            "why": one.why,
            "took_s": round(one.took_s, 2),
        }
        for batch, one in found
    ]
    return {"cells": cells, "kept": sum(cell["outcome"] == KEPT for cell in cells)}


def _refuse_without_links(operator: Operator) -> None:
    if operator.cluster.name == LAB:
        why = "the hosts of this lab have no links to cut: fab lab.up --kind netns has"
        raise UsageError(why)
