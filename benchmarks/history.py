"""How long the judgement of a history takes: python -m benchmarks.history.

The history is made up: 40 clients, a command of all five operations takes up to 2 ms, one in a
thousand has an unknown outcome, of which half had their effect.
"""

import argparse
import random
import time

from rich.console import Console

from analysis.history import judge
from analysis.register import NEVER, Call, Register, Transaction, carry_out
from rdht.messages import Operation

CLIENTS = 40
UNKNOWN_SHARE = 0.001
_OPERATIONS = (
    *(Operation.GET, Operation.GET, Operation.PUT, Operation.ADD, Operation.DELETE),
    Operation.CAS,
)


def history(commands: int, keys: int) -> list[Transaction]:
    """Return a history that is good."""
    rng = random.Random(1)  # noqa: S311 - no secret
    free_s = [0.0] * CLIENTS
    begun: list[tuple[float, Call]] = []  # with the moment of each
    for number in range(commands):
        client = rng.randrange(CLIENTS)
        operation = rng.choice(_OPERATIONS)
        called_s = free_s[client]
        moment_s = called_s + rng.random() * 1e-3
        free_s[client] = moment_s + rng.random() * 1e-3
        value = b"" if operation in (Operation.GET, Operation.DELETE) else b"%d" % number
        key = b"%d" % rng.randrange(keys)
        begun.append((moment_s, Call(key, operation, called_s, free_s[client], value)))
    begun.sort(key=lambda pair: pair[0])
    registers: dict[bytes, Register] = {}
    calls = []
    for _, call in begun:
        before = registers.get(call.key, Register())
        guessed = call._replace(version=before.version - (rng.random() < 0.4))  # noqa: PLR2004
        after, told = carry_out(guessed, before)
        if rng.random() < UNKNOWN_SHARE:
            after = rng.choice((before, after))
            calls.append(guessed._replace(ended_s=NEVER))
        else:
            calls.append(guessed._replace(told=told))
        registers[call.key] = after
    return [Transaction((call,)) for call in calls]


def main() -> None:
    """Make a history, judge it, and print how long that took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument("--commands", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--keys", type=int, default=10_000, metavar="N")
    arguments = parser.parse_args()
    commands, keys = arguments.commands, arguments.keys
    made = history(commands, keys)
    began_s = time.perf_counter()
    judged = judge(made)
    took_s = time.perf_counter() - began_s
    each_us = took_s / commands * 1e6
    took = f"{took_s:.1f} s, {each_us:.1f} us each"
    Console().print(f"{commands:,} commands on {keys:,} keys: {judged.verdict} in {took}")


if __name__ == "__main__":
    main()
