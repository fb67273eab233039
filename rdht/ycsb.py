"""The core workloads of YCSB (Cooper et al., Benchmarking Cloud Serving Systems, SoCC 2010).

Their published parameters: 1,000 records of 10 fields of 100 bytes, keys `user` and a hash,
popularity by Zipf's law with 0.99. A record is one value here, so an update writes it whole. A
read-modify-write is a get and, once that has ended, a put of the same key: two commands. Workload e
is missing: it scans keys in their order, and a hash table has none.
"""

import math
import random
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from rdht.coordinator import Command
from rdht.messages import Operation

DEFAULT_RECORDS = 1000
DEFAULT_VALUE_BYTES = 1000
_CONSTANT = 0.99
# Popularity is drawn for so many items and spread over the records by a hash, as YCSB does it: so
# how popular the most popular one is does not depend on their number.
_ITEMS = 10_000_000_000
_ZETA_OF_ITEMS = 26.46902820178302  # given by YCSB: it would take minutes to sum up
_FNV_BASIS, _FNV_PRIME = 0xCBF29CE484222325, 1_099_511_628_211
_64_BITS = (1 << 64) - 1


class Mix(NamedTuple):
    """The shares of what a workload does beside reading, and which records it reads."""

    updates: float = 0.0
    inserts: float = 0.0
    read_modify_writes: float = 0.0
    reads_latest: bool = False


MIXES = {
    "ycsb-a": Mix(updates=0.5),
    "ycsb-b": Mix(updates=0.05),
    "ycsb-c": Mix(),
    "ycsb-d": Mix(inserts=0.05, reads_latest=True),
    "ycsb-f": Mix(read_modify_writes=0.5),
}


class Zipfian:
    """Numbers from 0 on, of which 0 is the most popular, by Zipf's law.

    Drawn as in Gray et al., Quickly Generating Billion-Record Synthetic Databases, SIGMOD 1994.
    """

    def __init__(self, rng: random.Random, items: int, zeta: float | None = None) -> None:
        """Draw from so many items; `zeta` is the sum of their weights, where it is known."""
        self._rng = rng
        self._items = items
        self._zeta = weights_of(items) if zeta is None else zeta

    def grow(self) -> None:
        """Have one item more."""
        self._items += 1
        self._zeta += self._items**-_CONSTANT

    def draw(self) -> int:
        """Return the next number."""
        u = self._rng.random()
        weight = u * self._zeta
        if weight < 1:
            return 0
        if weight < weights_of(2):
            return 1
        rest = 1 - (2 / self._items) ** (1 - _CONSTANT)
        eta = rest / (1 - weights_of(2) / self._zeta)
        number = int(self._items * (eta * u - eta + 1) ** (1 / (1 - _CONSTANT)))
        return min(number, self._items - 1)


@cache
def weights_of(items: int) -> float:
    """Return the sum of the weights of so many items; for a million it takes a while."""
    return math.fsum(float(number) ** -_CONSTANT for number in range(1, items + 1))


def key_of(number: int) -> bytes:
    """Return the key of a record."""
    return b"user%d" % fnv_hash(number)


def fnv_hash(number: int) -> int:
    """Return the 64-bit FNV-1a hash of a number's octets, lowest first, as YCSB takes it."""
    hashed = _FNV_BASIS
    for octet in number.to_bytes(8, "little"):
        hashed = (hashed ^ octet) * _FNV_PRIME & _64_BITS
    return min(hashed, (1 << 64) - hashed)  # the absolute value of what is a signed number in Java


def load_commands(records: int, value_bytes: int, seed: int) -> Iterator[Command]:
    """Yield what writes all records before a run."""
    rng = random.Random(f"{seed}/load")  # noqa: S311 - no secret
    for number in range(records):
        yield Command(Operation.PUT, key_of(number), rng.randbytes(value_bytes))


def commands(
    workload: str, records: int, value_bytes: int, seed: int, thread: str
) -> Iterator[Command]:
    """Yield the commands of one thread, the same for the same seed and thread.

    A thread that reads the latest records knows of those that it has inserted itself.
    """
    mix = MIXES[workload]
    rng = random.Random(f"{seed}/{thread}")  # noqa: S311 - no secret
    popular = Zipfian(rng, _ITEMS, _ZETA_OF_ITEMS)
    latest = Zipfian(rng, records) if mix.reads_latest else None
    own = records + rng.getrandbits(46) * (1 << 16)  # where this thread's new records begin
    inserted = 0
    while True:
        chance = rng.random()
        if chance < mix.inserts and latest:
            yield Command(Operation.ADD, key_of(own + inserted), rng.randbytes(value_bytes))
            inserted += 1
            latest.grow()
            continue
        if latest:
            number = records + inserted - 1 - latest.draw()
            key = key_of(number if number < records else own + number - records)
        else:
            key = key_of(fnv_hash(popular.draw()) % records)
        if chance < mix.inserts + mix.updates:
            yield Command(Operation.PUT, key, rng.randbytes(value_bytes))
            continue
        yield Command(Operation.GET, key)
        if chance < mix.inserts + mix.updates + mix.read_modify_writes:
            yield Command(Operation.PUT, key, rng.randbytes(value_bytes))
