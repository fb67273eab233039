import os
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from rdht.errors import ConfigurationError
from rdht.ring import Replicas, Ring, layout
from rdht.roster import Roster

ROOT = Path(__file__).parents[3]
PLACE = """
from rdht.ring import Ring
from rdht.roster import Roster, ServerAddress
servers = tuple(ServerAddress(f"s{n}", f"h{n}", "127.0.0.1", 40_000 + n) for n in range(5))
ring = Ring(Roster(servers), 1000)
for number in range(500):
    print(*ring.replicas(b"key %d" % number))
"""


def place_in_another_process(hash_seed: str) -> list[Replicas]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    output = subprocess.run(
        [sys.executable, "-c", PLACE],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout
    return [Replicas(*line.split()) for line in output.splitlines()]


def test_every_process_places_a_key_alike(make_roster: Callable[..., Roster]) -> None:
    ring = Ring(make_roster("h0", "h1", "h2", "h3", "h4"), 1000)
    here = [ring.replicas(b"key %d" % number) for number in range(500)]
    assert len(set(here)) == 5
    for hash_seed in ("0", "1", "4242"):
        assert place_in_another_process(hash_seed) == here


def test_a_key_falls_into_the_bucket_of_its_crc32(make_roster: Callable[..., Roster]) -> None:
    ring = Ring(make_roster("h0", "h1", "h2", "h3"), 4)
    assert zlib.crc32(b"123456789") == 0xCBF43926  # the check value of RFC 1952's CRC-32
    assert ring.range_of(b"123456789") == 0xCBF43926 % 4


def test_the_backup_is_the_next_server_on_the_ring(make_roster: Callable[..., Roster]) -> None:
    ring = Ring(make_roster("h0", "h1", "h2"), 3)
    assert ring.ranges == (Replicas("s0", "s1"), Replicas("s1", "s2"), Replicas("s2", "s0"))


def test_the_backup_passes_over_servers_of_the_same_host(
    make_roster: Callable[..., Roster],
) -> None:
    ring = Ring(make_roster("h0", "h0", "h1", "h1", "h0"), 5)
    backups = [replicas.backup for replicas in ring.ranges]
    assert backups == ["s2", "s2", "s4", "s4", "s2"]


@pytest.mark.parametrize("servers", [2, 3, 4, 5, 6])
def test_the_copy_is_always_on_another_host(
    servers: int, make_roster: Callable[..., Roster]
) -> None:
    for hosts in combinations_with_replacement(("h0", "h1", "h2"), servers):
        if len(set(hosts)) == 1:
            continue
        roster = make_roster(*hosts)
        ring = Ring(roster, servers)
        assert [replicas.primary for replicas in ring.ranges] == [
            server.name for server in roster.servers
        ]
        for replicas in ring.ranges:
            assert roster.server(replicas.primary).host != roster.server(replicas.backup).host


def test_the_ranges_are_laid_out_alike_for_servers_and_for_clients(
    make_roster: Callable[..., Roster],
) -> None:
    roster = make_roster("h0", "h0", "h1", "h2")
    ring = Ring(roster, 1000)
    assert layout(roster) == ring.ranges
    assert ring.servers == ("s0", "s1", "s2", "s3")
    assert all(
        ring.replicas(b"%d" % one) == ring.ranges[ring.range_of(b"%d" % one)] for one in range(9)
    )


def test_all_wait_for_locks_in_the_order_of_the_roster(make_roster: Callable[..., Roster]) -> None:
    ring = Ring(make_roster("h0", "h1", "h2"), 3)
    assert ring.ranges[2] == Replicas("s2", "s0")
    assert ring.lock_order == (("s0", "s1"), ("s1", "s2"), ("s0", "s2"))


def buckets_per_range(ring: Ring) -> list[int]:
    """Count the buckets of each range, by one key for every bucket."""
    keys: dict[int, bytes] = {}
    number = 0
    while len(keys) < ring.key_range:
        key = b"%d" % number
        keys.setdefault(zlib.crc32(key) % ring.key_range, key)
        number += 1
    counts = Counter(map(ring.range_of, keys.values()))
    return [counts[index] for index in range(len(ring.ranges))]


@pytest.mark.parametrize(
    ("key_range", "buckets"),
    [
        (5, [1, 1, 1, 1, 1]),
        (7, [2, 1, 2, 1, 1]),
        (10_000, [2000, 2000, 2000, 2000, 2000]),
    ],
)
def test_a_key_range_is_shared_out_as_evenly_as_it_divides(
    key_range: int, buckets: list[int], make_roster: Callable[..., Roster]
) -> None:
    ring = Ring(make_roster("h0", "h1", "h2", "h3", "h4"), key_range)
    assert buckets_per_range(ring) == buckets


@pytest.mark.parametrize(
    ("key_range", "low", "high"), [(7, 1 / 7, 2 / 7), (10_000, 0.2, 0.2)], ids=["7", "10000"]
)
def test_the_load_is_uneven_for_a_key_range_of_7_and_even_for_10000(
    key_range: int, low: float, high: float, make_roster: Callable[..., Roster]
) -> None:
    ring = Ring(make_roster("h0", "h1", "h2", "h3", "h4"), key_range)
    keys = 20_000
    counts = Counter(ring.range_of(b"key %d" % number) for number in range(keys))
    assert min(counts.values()) / keys == pytest.approx(low, abs=0.01)
    assert max(counts.values()) / keys == pytest.approx(high, abs=0.01)


@pytest.mark.parametrize(
    ("hosts", "key_range", "why"),
    [
        (["h0"], 10, "at least two servers"),
        (["h0", "h1", "h2"], 2, "key range 2 is below the number of servers, 3"),
        (["h0", "h0", "h0"], 10, "all servers stand on host h0"),
    ],
)
def test_a_ring_that_cannot_be_is_refused_with_the_reason(
    hosts: list[str], key_range: int, why: str, make_roster: Callable[..., Roster]
) -> None:
    with pytest.raises(ConfigurationError, match=why):
        Ring(make_roster(*hosts), key_range)
