"""Which table a range was served with, so that none is lost without anybody's notice.

A range whose replicas have both lost their memory may begin anew only if no server is left that
knew of the table before. A server knows of it from the moment that it hears of the range, while a
replica has the table, until it crashes. All that live must have heard of it BEFORE it is served.
"""

from collections.abc import Mapping
from typing import NamedTuple

from rdht.replica import Mode
from tests.model.members import ServerTraits
from tests.model.specification import Fault


class Birth(NamedTuple):
    """The table that a range was served with last, and the servers that know of it."""

    founded: int = 0
    witnesses: frozenset[str] = frozenset()


def follow(birth: Birth, number: int, servers: Mapping[str, ServerTraits]) -> Birth:
    """Return what is known of the range now; Fault if it is begun anew, or begun in secret."""
    founded = {
        name: dict(traits.founded)[number]
        for name, traits in servers.items()
        if number in dict(traits.founded)
    }
    knowing = frozenset(name for name, traits in servers.items() if number in traits.knows)
    for name, table in founded.items():
        if dict(servers[name].modes)[number] is not Mode.SERVING or table == birth.founded:
            continue
        if birth.witnesses:
            who = " and ".join(sorted(birth.witnesses))
            why = f"{name} serves range {number} anew, though {who} know of the table before"
            raise Fault(why)
        deaf = {one for one, traits in servers.items() if not traits.life} - knowing
        if deaf:
            why = f"{name} serves range {number}, of which {' and '.join(sorted(deaf))} never heard"
            raise Fault(why)
        return Birth(table, knowing)
    if birth.founded in founded.values():
        return Birth(birth.founded, birth.witnesses | knowing)
    return birth


def forget(birth: Birth, crashed: str) -> Birth:
    """Return what is known of the range after a server's crash."""
    return birth._replace(witnesses=birth.witnesses - {crashed})
