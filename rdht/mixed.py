"""All that the table can do, on few keys, so that commands meet: what a history is judged best by.

Every value is written once only. Other keys are taken every ROUND_S, so that what is done to a key
does not grow without end; which ones a command meets depends on the time, and not on the seed only.
"""

import math
import os
import random
from collections.abc import Callable, Iterator, Mapping

from rdht.coordinator import Command
from rdht.messages import Operation

KEYS = 24  # in use at the same time
ROUND_S = 4.0
_MANY = (2, 4)  # keys of a command on several
_SHARES = [  # of operations on one key, and on many
    *((Operation.GET, False, 26), (Operation.PUT, False, 24), (Operation.ADD, False, 10)),
    *((Operation.DELETE, False, 10), (Operation.CAS, False, 12)),
    *((Operation.PUT, True, 10), (Operation.GET, True, 8)),
]
_SIZES = {24: 90, 500: 9, 20_000: 1}  # bytes of a value, and how often of a hundred
_GUESSES = 0.3  # share of cas that expect any version


def commands(
    seed: int, thread: str, elapsed_s: Callable[[], float], versions: Mapping[bytes, int]
) -> Iterator[tuple[Command, ...]]:
    """Yield the commands of one thread, each as its parts.

    `elapsed_s` tells how far the run is, `versions` what the thread was told of keys last.
    """
    rng = random.Random(f"{seed}/{thread}")  # noqa: S311 - no secret
    writer = f"{thread}/{os.urandom(3).hex()}"  # nobody else, even if started again with this seed
    shares = [share for _, _, share in _SHARES]
    number = 0

    def value() -> bytes:
        nonlocal number
        number += 1
        (size,) = rng.choices(list(_SIZES), list(_SIZES.values()))
        return f"{writer}/{number}".encode() + b"~" * size

    while True:
        ((operation, is_many, _),) = rng.choices(_SHARES, shares)
        turn = math.floor(elapsed_s() / ROUND_S)
        count = rng.randint(*_MANY) if is_many else 1
        keys = [b"%d-%d" % (turn, at) for at in rng.sample(range(KEYS), count)]
        version = 0
        if operation is Operation.CAS:
            is_guess = rng.random() < _GUESSES
            version = rng.randrange(10) if is_guess else versions.get(keys[0], 0)
        reads = operation in (Operation.GET, Operation.DELETE)
        yield tuple(Command(operation, key, b"" if reads else value(), version) for key in keys)
