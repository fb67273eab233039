"""What clients do: the classic workload, the choice among all, and its parameters.

The classic one draws keys of a fixed number of letters a to z, gets with a given probability and
otherwise puts if absent (the original's put) a value from 0 to 99.
"""

import random
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rdht import mixed, ycsb
from rdht.coordinator import Command
from rdht.messages import Operation

CLASSIC = "classic"  # the original's
MIXED = "mixed"
WORKLOADS = [CLASSIC, MIXED, *ycsb.MIXES]
_LETTERS = string.ascii_lowercase.encode()
_VALUES = [str(number).encode() for number in range(100)]


@dataclass(frozen=True)
class Parameters:
    """What a client process runs: `commands` a thread, or for `duration_s` if that is None."""

    threads: int
    key_size: int
    key_range: int
    get_ratio: float
    commands: int | None
    duration_s: float | None
    seed: int
    profile: str
    window: int  # commands of a thread in flight
    rate_per_s: float | None = None  # of all threads together; None is a closed loop
    warmup_s: float = 0.0  # before the start; nothing of it counts
    workload: str = CLASSIC
    records: int = ycsb.DEFAULT_RECORDS  # of a YCSB workload, as is the next
    value_bytes: int = ycsb.DEFAULT_VALUE_BYTES
    frame_bytes: int | None = None  # of a frame at least; None is what the profile has


def commands_of(
    parameters: Parameters,
    client: str,
    thread: int,
    elapsed_s: Callable[[], float],
    versions: Mapping[bytes, int],
) -> Iterator[Sequence[Command]]:
    """Yield the commands of one thread of the chosen workload, each as its parts.

    `elapsed_s` tells how far the run is, `versions` what the thread was told of keys last.
    """
    name = f"{client}/{thread}"
    if parameters.workload == MIXED:
        return mixed.commands(parameters.seed, name, elapsed_s, versions)
    if parameters.workload == CLASSIC:
        single = classic_commands(parameters, client, thread)
    else:
        mix, records, value_bytes = parameters.workload, parameters.records, parameters.value_bytes
        single = ycsb.commands(mix, records, value_bytes, parameters.seed, name)
    return ((command,) for command in single)


def classic_commands(parameters: Parameters, client: str, thread: int) -> Iterator[Command]:
    """Yield the commands of one thread, the same for the same seed, client and thread."""
    rng = random.Random(f"{parameters.seed}/{client}/{thread}")  # noqa: S311 - no secret
    while True:
        key = bytes(rng.choices(_LETTERS, k=parameters.key_size))
        if rng.random() < parameters.get_ratio:
            yield Command(Operation.GET, key)
        else:
            yield Command(Operation.ADD, key, rng.choice(_VALUES))
