"""The small worlds that are explored."""

from typing import Any, NamedTuple

from rdht.coordinator import Command
from rdht.messages import Operation
from tests.model.members import Configuration, Programme, keys


class Plan(NamedTuple):
    """A configuration, and how far it is to be explored."""

    configuration: Configuration
    limit: int | None = None  # states; none: all of them
    walks: int = 0  # at random, of what is too large to be explored
    is_quick: bool = False  # for the test


def _plans() -> list[Plan]:
    key = keys(2, 1)[0]
    other = b"%s-too" % key
    here, there = keys(3, 2)
    put, put_again = (_put(key, b"1"),), (_put(key, b"2"),)
    get, add = (Command(Operation.GET, key),), (Command(Operation.ADD, key, b"1"),)
    delete = (Command(Operation.DELETE, key),)
    cas = (Command(Operation.CAS, key, b"3", 1),)
    many = (_put(here, b"1"), _put(there, b"1"))
    get_many = (Command(Operation.GET, here), Command(Operation.GET, there))
    rival = (_put(there, b"2"),)

    def small(name: str, *programmes: Programme, **more: Any) -> Configuration:
        return Configuration(name, programmes, **more)

    def spanning(name: str, *programmes: Programme, **more: Any) -> Configuration:
        more = {"servers": 3, "ranges": 2, "attempts": 1, **more}
        return Configuration(name, programmes, **more)

    def founding(name: str, *programmes: Programme, **more: Any) -> Configuration:
        return Configuration(name, programmes, founding=True, **more)

    classic: dict[str, Any] = {"profile": "classic"}
    crash: dict[str, Any] = {"server_crashes": 1}
    both_crash: dict[str, Any] = {"server_crashes": 2, "crashing_servers": "ab"}
    gone: dict[str, Any] = {"client_crashes": 1, "crashing_clients": "v"}
    refused_by_a = (
        "crash server a",
        "a -> v: end of connection",
        "rejoin a",
        "reconnect v a",
        "begin v",
        "v -> a: REQUEST",
        "a -> v: NO",
    )
    refused_by_b = (
        "crash server b",
        "b -> v: end of connection",
        "reconnect v b",
        "begin v",
        "v -> a: REQUEST",
        "v -> b: REQUEST",
        "b -> v: NO",
        "a -> v: YES",
        "rejoin b",
    )
    taken_by_b = (
        "crash server b",
        "b -> v: end of connection",
        "rejoin b",
        "b -> a: JOIN",
        "a -> b: COPY",
        "reconnect v b",
        "begin v",
        "v -> b: REQUEST",
    )
    left_at_c = ("begin v", "v -> a: REQUEST", "v -> b: REQUEST", "crash client v")
    quick = [
        small("writer, reader", (put,), (get,), hurries=1),
        small("writer, reader, break", (put,), (get,), breaks=1),
        small("writer, reader, classic", (put,), (get,), **classic),
        small("two writers", (put,), (put_again,), hurries=1),
        small("two writers, classic", (put,), (put_again,), **classic),
        small("add, cas", (add,), (cas,), hurries=1),
        small("writer, reader, client crash", (put,), (get,), hurries=1, **gone),
        small(
            "writer, client crash, break, classic", (put,), hurries=1, breaks=1, **gone, **classic
        ),
        small("writer, server crash", (put,), hurries=1, slow_links=True, **crash),
        small("writer, server crash, classic", (put,), slow_links=True, **crash, **classic),
        small("writer twice, server crash", (put, put_again), **crash),
        small("writer, give-up", (put,), give_ups=1, breaks=1),
        small(
            "put_many in a range, client crash",
            ((_put(key, b"1"), _put(other, b"1")),),
            hurries=1,
            **gone,
        ),
        spanning("put_many, client crash", (many,), **gone),
        small("writer, server a refuses, crash", (put,), prelude=refused_by_a, server_crashes=2),
        small("put, delete | get, get", (put, delete), (get, get)),
        small("writer, reader twice", (put,), (get, get), hurries=1),
        small("put, delete, server crash", (put, delete), **crash),
        small("writer, give-up, server crash", (put,), give_ups=1, **crash),
        small("writer, reader, a stops", (put,), (get,), hurries=1, stopping="a"),
        small("two writers, b stops", (put,), (put_again,), stopping="b"),
        spanning("put_many, b stops", (many,), stopping="b"),
        spanning("put_many, get_many", (many,), (get_many,)),
        spanning("put_many, put, 2 attempts", (many,), (rival,), attempts=2),
        small("writer, b takes a copy, crash", (put,), prelude=taken_by_b, server_crashes=2),
        founding("founding", ranges=2),
        founding("founding, 3 servers", servers=3),
        founding("founding, writer, reader", (put,), (get,)),
        small("3 servers, a and b crash", servers=3, may_lose=True, **both_crash),
        founding("founding, server crash", ranges=2, may_lose=True, **crash),
    ]
    full = [
        small("writer, reader, 2 hurries, break", (put,), (get,), hurries=2, breaks=1),
        small("writer, reader, classic, 2 hurries", (put,), (get,), hurries=2, **classic),
        small("two writers, 2 hurries", (put,), (put_again,), hurries=2),
        small("two writers, break", (put,), (put_again,), hurries=1, breaks=1),
        small("two writers, classic, hurry", (put,), (put_again,), hurries=1, **classic),
        small("two adders, classic", (add,), (add,), hurries=1, **classic),
        small(
            "writer, reader, client crash, classic", (put,), (get,), hurries=1, **gone, **classic
        ),
        small("writer, client crash, 2 breaks", (put,), hurries=2, breaks=2, **gone),
        small("writer, 2 server crashes", (put,), server_crashes=2, hurries=1, slow_links=True),
        small("writer, server crash, break", (put,), breaks=1, hurries=1, **crash),
        small("writer twice, give-up, server crash", (put, put_again), give_ups=1, **crash),
        small("add, put, server crash", (add,), (put,), **crash),
        spanning("put_many, give-up", (many,), give_ups=1),
        spanning("put_many, break", (many,), breaks=1),
        spanning("put_many, server a crash", (many,), crashing_servers="a", **crash),
        spanning("put_many, server b refuses", (many,), prelude=refused_by_b, **crash),
        spanning("put_many, server c crash", (many,), crashing_servers="c", **crash),
        small("writer, reader, server crash", (put,), (get,), **crash),
        small("two writers, server crash", (put,), (put_again,), **crash),
        small("two writers, client crash", (put,), (put_again,), client_crashes=1),
        founding("founding, 3 servers, crash", servers=3, may_lose=True, **crash),
        founding("founding, writer, server crash", (put,), may_lose=True, **crash),
    ]
    capped = [
        spanning(
            "put_many, left, c crash",
            (many,),
            prelude=left_at_c,
            crashing_servers="c",
            **gone,
            **crash,
        ),
        founding("founding, 3 servers, 2 crashes", servers=3, may_lose=True, server_crashes=2),
        small("writer, 3 servers, a and b crash", (put,), servers=3, may_lose=True, **both_crash),
        spanning("put_many, put, client crash", (many,), (rival,), client_crashes=1),
        spanning("put_many, put, server crash", (many,), (rival,), **crash),
        spanning("put_many, server b crash", (many,), crashing_servers="b", **crash),
        spanning("put_many, both crash", (many,), **gone, **crash),
    ]
    return [
        *(Plan(one, is_quick=True) for one in quick),
        *(Plan(one) for one in full),
        *(Plan(one, 3_000_000, walks=20_000) for one in capped),
    ]


def _put(key: bytes, value: bytes) -> Command:
    return Command(Operation.PUT, key, value)


PLANS = {plan.configuration.name: plan for plan in _plans()}
