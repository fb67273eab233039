"""Key → bucket → range → replicas: which two servers hold a key."""

import zlib
from typing import NamedTuple

from rdht.errors import ConfigurationError
from rdht.roster import Roster


class Replicas(NamedTuple):
    """The two servers of a range, by name; they stand on different hosts."""

    primary: str
    backup: str


class Ring:
    """Places keys as the original did: hash, key range, ring.

    A key falls into bucket `crc32(key) mod key_range` (CRC-32 of RFC 1952, so every process of
    every Python agrees), the buckets are shared out in order over as many ranges as there are
    servers, and the range's copy lives on the next server of the ring that stands on another host.
    A key range that the servers do not divide gives some of them one bucket more: with a small
    one the load is uneven, as it was in the original.
    """

    def __init__(self, roster: Roster, key_range: int) -> None:
        """Take `key_range` buckets (at least one for each server).

        Raises ConfigurationError for fewer, for one server, and where all stand on one host.
        """
        servers = roster.servers
        if len(servers) < len(Replicas._fields):
            why = "a table needs at least two servers, the roster names one"
            raise ConfigurationError(why)
        if key_range < len(servers):
            why = (
                f"key range {key_range} is below the number of servers, {len(servers)}: "
                "some servers would hold no key; use at least one bucket a server"
            )
            raise ConfigurationError(why)
        if len({server.host for server in servers}) == 1:
            why = f"all servers stand on host {servers[0].host}; the copy of a key needs another"
            raise ConfigurationError(why)
        self.key_range = key_range
        self.servers = tuple(server.name for server in servers)
        self.ranges = layout(roster)
        place = self.servers.index
        # All who wait for locks take them in the order of the roster, so no circle can form.
        self.lock_order = tuple(tuple(sorted(pair, key=place)) for pair in self.ranges)

    def range_of(self, key: bytes) -> int:
        """Return the number of the key's range, which is its primary's place on the ring."""
        bucket = zlib.crc32(key) % self.key_range
        return bucket * len(self.ranges) // self.key_range

    def replicas(self, key: bytes) -> Replicas:
        """Return the key's primary and backup."""
        return self.ranges[self.range_of(key)]


def layout(roster: Roster) -> tuple[Replicas, ...]:
    """Return the replicas of each range."""
    return tuple(_replicas(roster, index) for index in range(len(roster.servers)))


def _replicas(roster: Roster, index: int) -> Replicas:
    servers = roster.servers
    primary = servers[index]
    following = servers[index + 1 :] + servers[:index]
    backup = next(server for server in following if server.host != primary.host)
    return Replicas(primary.name, backup.name)
