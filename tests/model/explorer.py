"""Explore every order in which messages, crashes and timeouts can meet in a small world.

The world is made of the real `Participant`, `Rejoin` and `Execution` objects (`members.py`). A
breadth-first search (`search.py`) visits every state of it (`world.py`) that can be reached, so the
first failing trace is a shortest one. What is too large for that is also walked at random, by
seeds (`walks.py`): each walk goes on until the world rests, where most can be judged.

Run `python -m tests.model.explorer` for the configurations of the test (`plans.py`), with `--all`
for all of them and for the mutants.
"""

import argparse
import sys

from tests.model.plans import PLANS
from tests.model.search import Search, Verdict
from tests.model.walks import Walks
from tests.model.world import World

MUTANT_LIMIT = 250_000  # states; each mutant is caught long before


def explore(name: str, limit: int | None = None) -> Verdict:
    """Explore the configuration of that name, up to its own limit or the one given."""
    plan = PLANS[name]
    return Search(World(plan.configuration), plan.limit if limit is None else limit).run()


HEADING = (
    f"{'configuration':36} {'states':>9} {'transitions':>11} {'depth':>5} {'rests':>7} "
    f"{'seconds':>7}  verdict"
)


def walk(name: str, count: int | None = None) -> Verdict:
    """Walk through the configuration of that name, as often as it says or is given."""
    plan = PLANS[name]
    return Walks(World(plan.configuration), plan.walks if count is None else count).run()


def main(arguments: list[str] | None = None) -> int:
    """Print a table of the explorations, and the trace to each fault; return the exit status."""
    parser = argparse.ArgumentParser(description="Explore small worlds exhaustively.")
    parser.add_argument("names", nargs="*", help="configurations; without any, the quick ones")
    parser.add_argument("--all", action="store_true", help="all configurations, then the mutants")
    parser.add_argument("--mutants", action="store_true", help="which mutant is caught where")
    parser.add_argument("--limit", type=int, help="explore so many states at most")
    options = parser.parse_args(arguments)
    names = options.names or [name for name, one in PLANS.items() if one.is_quick or options.all]
    has_failed = False
    if not options.mutants:
        _say(HEADING)
        for name in names:
            for verdict in [explore(name, options.limit)] + [walk(name)] * bool(PLANS[name].walks):
                _say(verdict.row(), *(f"    {line}" for line in verdict.trace))
                has_failed = has_failed or bool(verdict.fault)
    if options.mutants or options.all:
        has_failed = not _show_mutants(names, options.limit or MUTANT_LIMIT) or has_failed
    return int(has_failed)


def _show_mutants(names: list[str], limit: int) -> bool:
    """Print which configurations catch which mutant; return whether each is caught by one."""
    from faultbuild.mutants import MUTANTS  # noqa: PLC0415 - what breaks the core stays apart

    are_caught = True
    for mutant in MUTANTS.values():
        _say(f"\n{mutant.name}: {mutant.description}", HEADING)
        is_caught = False
        for name in names:
            with mutant.apply():
                verdict = explore(name, limit)
            if verdict.fault:
                _say(verdict.row())
                is_caught = True
        are_caught = are_caught and is_caught
    return are_caught


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
