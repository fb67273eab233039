"""The bound: what links of known rates allow known messages, and what was full."""

from typing import Any

import pytest

from analysis import limits
from rdht.messages import Status
from rdht.records import ClientRecord, ThreadRecord
from rdht.traffic import Traffic

HOSTS = ["pi1", "pi2", "pi3", "pi4", "pi5"]
RATE = 10_000_000
LINK = {
    "in_bits_per_s": RATE,
    "out_bits_per_s": RATE,
    "overhead_bytes": 66,
}


def manifest(**changed: dict[str, Any]) -> dict[str, Any]:
    return {
        "roster": {"servers": [{"name": f"s-{host}", "host": host} for host in HOSTS]},
        "links": {host: {**LINK, **changed.get(host, {})} for host in HOSTS},
    }


def traffic(messages: int, size: int, segments: int) -> Traffic:
    one = Traffic(segments_sent=segments, segments_received=segments)
    one.sent[Status.REQUEST] = [messages, messages * size]
    one.received[Status.YES] = [messages, messages * size]
    return one


def records(commands: int, between: Traffic) -> list[tuple[str, ClientRecord]]:
    """Return a client a host, each of which had the same traffic with every server."""
    found = []
    for host in HOSTS:
        thread = ThreadRecord(0, gets=commands)
        thread.traffic = {f"s-{server}": between for server in HOSTS}
        record = ClientRecord(host, "classic", {}, 0.0, False, {}, [], [thread], [])
        found.append((host, record))
    return found


def test_the_bound_of_the_classic_protocol_is_the_one_computed_by_hand() -> None:
    # 5 commands a client: 40 messages, 4 to and 4 from each of the 5 servers.
    classic = records(5, traffic(4, 256, 4))
    # Of 8 messages a command four fifths take a link, over five links each way.
    by_hand = RATE / (8 * (8 * 4 / 5 / 5) * (256 + 66))
    found = limits.bound(classic, manifest(), throughput_per_s=by_hand * 0.96)
    assert found is not None
    assert found["throughput_per_s"] == pytest.approx(by_hand, rel=1e-4)
    assert by_hand == pytest.approx(3033, abs=1)  # as performance.md has it
    assert found["share"] == pytest.approx(0.96, abs=1e-3)
    assert len(found["links"]) == 10
    for row in found["links"]:
        assert row["rate_bits_per_s"] == RATE
        assert row["used_bits_per_s"] == pytest.approx(0.96 * RATE, rel=1e-3)


def test_messages_that_travel_together_share_their_headers() -> None:
    apart = limits.bound(records(1, traffic(10, 100, 10)), manifest(), 1.0)
    together = limits.bound(records(1, traffic(10, 100, 1)), manifest(), 1.0)
    large = limits.bound(records(1, traffic(1, 14480, 10)), manifest(), 1.0)
    assert apart and together and large  # noqa: PT018 - for the types
    ratio = together["throughput_per_s"] / apart["throughput_per_s"]
    assert ratio == pytest.approx(10 * 166 / 1066, rel=1e-3)
    ratio = together["throughput_per_s"] / large["throughput_per_s"]
    assert ratio == pytest.approx((14480 + 10 * 66) / 1066, rel=1e-3)


def test_the_fullest_link_is_the_bound() -> None:
    equal = limits.bound(records(1, traffic(1, 100, 1)), manifest(), 1.0)
    slow = limits.bound(
        records(1, traffic(1, 100, 1)), manifest(pi3={"out_bits_per_s": RATE // 4}), 1.0
    )
    assert equal and slow  # noqa: PT018 - for the types
    assert slow["throughput_per_s"] == pytest.approx(equal["throughput_per_s"] / 4, rel=1e-3)


@pytest.mark.parametrize("links", [{}, None])
def test_hosts_without_measured_links_have_no_bound(links: dict[str, Any] | None) -> None:
    noted = {**manifest(), "links": links}
    assert limits.bound(records(1, traffic(1, 100, 1)), noted, 1.0) is None


def test_a_run_that_sent_nothing_has_no_bound() -> None:
    assert limits.bound(records(0, traffic(1, 100, 1)), manifest(), 1.0) is None
    assert limits.bound(records(1, Traffic()), manifest(), 1.0) is None


def link(host: str, way: str, share: float) -> dict[str, Any]:
    return {"host": host, "way": way, "rate_bits_per_s": 100, "used_bits_per_s": 100 * share}


def host(cpu_busy: float | None, **cores: float) -> dict[str, Any]:
    return {"cpu_busy": cpu_busy, "processes_cores": cores}


def summary(**changed: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "bound": None,
        "hosts": {},
        "target_rate_per_s": None,
        "commands": 100,
        "not_begun": 0,
    }
    return {**plain, **changed}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "not known: not all hosts were watched, and no link was full"),
        ({"hosts": {"pi1": host(0.5)}}, "nothing was full: each thread waits for its answers"),
        (
            {"bound": {"links": [link("pi1", "out", 0.5), link("pi3", "in", 0.97)]}},
            "the link of pi3, inward",
        ),
        (
            {
                "bound": {
                    "links": [*(link("pi1", "out", n) for n in (0.91, 0.1)), link("b", "in", 1)]
                }
            },
            "the link of b, inward, and 1 more",
        ),
        ({"bound": {"links": [link("pi1", "out", 0.9), link("pi1", "in", 0.9)]}}, "all links"),
        ({"hosts": {"pi1": host(0.5), "pi2": host(0.93)}}, "the processor of pi2"),
        ({"hosts": {"pi1": host(0.95), "pi2": host(0.93)}}, "the processors of all hosts"),
        (
            {"hosts": {"pi1": host(0.95)}, "bound": {"links": [link("pi1", "out", 0.95)]}},
            "the link of pi1, outward",
        ),
        (
            {"hosts": {"pi1": host(0.3, server=0.97), "pi2": host(None)}},
            "the server on pi1, a process of Python, which uses no more than a core",
        ),
        ({"target_rate_per_s": 10.0}, "the rate that was asked for"),
        (
            {"target_rate_per_s": 10.0, "not_begun": 50, "hosts": {"pi1": host(0.5)}},
            "nothing was full: each thread waits for its answers",
        ),
    ],
)
def test_what_was_full_is_named(changed: dict[str, Any], said: str) -> None:
    assert limits.limit(summary(**changed)) == said
