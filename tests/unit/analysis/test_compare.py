"""Compare: which of two sets of runs is faster, by how much, and what speaks against it."""

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from analysis import compare, summary
from analysis.compare import P50, P99, THROUGHPUT, Result
from rdht.records import SLOT_S, ClientRecord, Histogram, ThreadRecord

THREADS = 8
HOST: dict[str, Any] = {"model": "Pi 4", "machine": "aarch64", "cores": 4, "python": "3.11.2"}
HOSTS = {name: {**HOST, "kernel": "6.6", "load_1min": 0.1} for name in ("pi1", "pi2")}
CLIENTS = {"profile": "fast", "window": 1, "seed": 1, "trace": False, "target_rate": 0.0}
MANIFEST: dict[str, Any] = {
    "cluster": "pis",
    "release": "0123456789ab",
    "hosts": HOSTS,
    "servers": ["pi1", "pi2"],
    "clients": ["pi1"],
    "parameters": {"servers": {"workers": 8, "trace": False}, "clients": CLIENTS},
    "git": {"commit": "a", "changed": False},
}


def thread(chance: random.Random, number: int, rate: float, latency_us: float) -> ThreadRecord:
    """Return what a thread recorded in 10 s, whose rate differs by a tenth from slot to slot."""
    record = ThreadRecord(number, started_s=0.0, ended_s=10.0)
    record.completed = [round(chance.gauss(1, 0.1) * rate * SLOT_S) for _ in range(100)]
    for _ in range(100):
        record.latency_get.add(int(latency_us * chance.lognormvariate(0, 0.5)))
    return record


def run(
    seed: int,
    rate: float = 1000.0,
    latency_us: float = 3000.0,
    fixed_rate: float | None = None,
    manifest: dict[str, Any] | None = None,
    **flaws: Any,
) -> Result:
    """Return a run of so many commands/s, and latencies around so many us."""
    chance = random.Random(seed)
    threads = [thread(chance, number, rate / THREADS, latency_us) for number in range(THREADS)]
    whole = {**MANIFEST, "run": f"run-{seed}", **(manifest or {})}
    figures = summarized(threads, whole, fixed_rate)
    return Result(whole, {**figures, "marks": [], **flaws}, threads)


def summarized(
    threads: list[ThreadRecord], manifest: dict[str, Any], fixed_rate: float | None = None
) -> dict[str, Any]:
    """Return the summary of a run with one client."""
    rest = {"window": 1, "workload": "classic", "rate_per_s": fixed_rate, "warmup_s": 1.0}
    record = ClientRecord("pi1", "fast", rest, 1.0, False, {}, [], threads, [])
    return summary.summarize([summary.HostRecord("pi1", record)], manifest)


def changed(**changes: Any) -> dict[str, Any]:
    """Return a manifest's parameters with changed options of the clients."""
    servers = MANIFEST["parameters"]["servers"]
    return {"parameters": {"servers": servers, "clients": {**CLIENTS, **changes}}}


def value(one: Result, figure: str) -> float:
    name = figure.removeprefix("latency_us_")
    found = one.summary["latency_us"].get(name)
    return float(one.summary[figure] if found is None else found)


def verdict(a: Sequence[Result], b: Sequence[Result]) -> str:
    return str(compare.compare(a, b)["verdict"])


@pytest.mark.parametrize("repeats", [1, 3])
def test_a_faster_and_a_slower_side_are_told(repeats: int) -> None:
    base = [run(seed, 1000 + seed) for seed in range(repeats)]
    other = [run(10 + seed, 1200 + seed) for seed in range(repeats)]
    assert verdict(base, other) == "B is faster"
    assert verdict(other, base) == "B is slower"
    low, high = compare.compare(base, other)["figures"][THROUGHPUT]["interval"]
    assert 1.1 < low < 1.2 < high < 1.3


@pytest.mark.parametrize("repeats", [1, 3])
def test_equal_sides_show_no_difference(repeats: int) -> None:
    found = [
        verdict(
            [run(1000 * trial + seed) for seed in range(repeats)],
            [run(1000 * trial + 500 + seed) for seed in range(repeats)],
        )
        for trial in range(30)
    ]
    assert found.count("no difference shown") >= 26


def test_what_runs_differ_by_themselves_hides_a_difference_only_if_they_were_repeated() -> None:
    a = [run(seed, rate) for seed, rate in enumerate((1000, 1400, 1200))]
    b = [run(10 + seed, rate) for seed, rate in enumerate((1100, 1500, 1300))]
    assert verdict(a[:1], b[:1]) == "B is faster"
    assert not compare.compare(a[:1], b)["repeated"]
    assert verdict(a, b) == "no difference shown"
    assert compare.compare(a, b)["repeated"]


def test_the_values_are_those_of_the_summaries() -> None:
    (a, b), c = [run(1), run(2, 1100)], run(3, 1200, 4000)
    single = compare.compare([a], [c])["figures"]
    both = compare.compare([a, b], [c, c])["figures"]
    for name in (THROUGHPUT, P50, P99):
        of_a, of_b, of_c = (value(one, name) for one in (a, b, c))
        assert (single[name]["a"], single[name]["b"]) == pytest.approx((of_a, of_c), rel=1e-4)
        assert single[name]["ratio"] == pytest.approx(of_c / of_a, rel=1e-4)
        assert both[name]["a"] == pytest.approx((of_a + of_b) / 2)
    document = json.loads(json.dumps(compare.compare([a], [c])))
    assert document["figures"][P99]["ratio"] == single[P99]["ratio"]
    assert document["a"][0]["run"] == "run-1"


def test_latencies_in_one_bucket_are_no_difference() -> None:
    def fixed(seed: int, latency_us: int) -> Result:
        made = run(seed, fixed_rate=1000.0)
        histogram = Histogram()
        histogram.add(latency_us)
        for one in made.threads:
            one.latency_get = histogram
        made.summary["latency_us"] |= {"p99": histogram.percentile(99)}
        return made

    a, near, far = ([fixed(10 * us + n, us) for n in (0, 1)] for us in (20_000, 20_100, 21_000))
    for repeats in (1, 2):
        assert verdict(a[:repeats], near[:repeats]) == "no difference shown"
        assert verdict(a[:repeats], far[:repeats]) == "B is slower"


def test_at_a_fixed_rate_latency_decides() -> None:
    a, b = run(1, 1000, 3000, fixed_rate=1000.0), run(2, 1010, 9000, fixed_rate=1000.0)
    found = compare.compare([a], [b])
    assert (found["decided_by"], found["verdict"]) == (P99, "B is slower")
    assert verdict([b], [a]) == "B is faster"
    assert compare.compare([run(1)], [run(2)])["decided_by"] == THROUGHPUT


def test_the_parts_of_a_run_are_those_in_which_all_threads_ran() -> None:
    def made(started_s: float, ended_s: float, completed: list[int]) -> ThreadRecord:
        return ThreadRecord(0, started_s=started_s, ended_s=ended_s, completed=completed)

    # Together from 0.5 to 3.0 s: two parts of 1.25 s.
    early = made(0.0, 3.0, [10] * 10 + [20] * 20)
    late = made(0.5, 4.0, [0] * 5 + [5] * 35)
    first = (5 * 10 + 7.5 * 20) / 1.25 + 50
    assert compare.second_rates([early, late]) == pytest.approx([first, 250])
    assert compare.second_rates([early, made(3.5, 4.0, [1])]) == [0.0]
    # A slot in which a thread ran for a part of the time has all its commands in that part.
    cut = made(0.05, 0.95, [8] * 10)
    assert compare.second_rates([cut]) == pytest.approx([80 / 0.9])


def test_the_mean_of_a_runs_parts_is_its_throughput() -> None:
    one = run(5)
    for number, record in enumerate(one.threads):
        record.started_s, record.ended_s = 0.013 * number, 9.99 - 0.012 * number
    parts = compare.second_rates(one.threads)
    told = summarized(one.threads, one.manifest)["throughput_per_s"]
    assert len(parts) == 9
    assert sum(parts) / len(parts) == pytest.approx(told, abs=0.06)


def test_a_run_that_did_nothing_has_no_ratio() -> None:
    nothing = run(1)
    for record in nothing.threads:
        record.completed, record.latency_get = [], Histogram()
    nothing.summary.update(throughput_per_s=0.0, latency_us={"p50": None, "p99": None})
    for repeats in (1, 2):
        found = compare.compare([nothing] * repeats, [run(2)] * repeats)
        assert found["verdict"] == "no difference shown"
        assert all(row["ratio"] is row["interval"] is None for row in found["figures"].values())


def differing(**manifest: Any) -> dict[str, tuple[Any, Any]]:
    return compare.differences(run(1), run(2, manifest=manifest))


def test_a_repeat_differs_in_nothing() -> None:
    hosts = copy.deepcopy(HOSTS)
    hosts["pi1"] |= {"load_1min": 9.0, "boot_id": "x", "address": "10.0.0.9"}
    git = {"commit": "b", "changed": True}
    assert differing(hosts=hosts, git=git, **changed(seed=99)) == {}


def test_whatever_decides_the_figures_is_named_with_both_values() -> None:
    assert differing(**changed(window=32)) == {"window": (1, 32)}
    assert differing(**changed(trace=True)) == {"trace": (None, "clients")}
    assert differing(release="ffff") == {"release": ("0123456789ab", "ffff")}
    assert differing(clients=["pi1", "pi2"]) == {"clients": (1, 2)}
    fault = {"host": "pi2", "text": "cut from pi1", "from_unix_s": 1.0}
    assert differing(faults=[fault]) == {"faults": (None, "pi2: cut from pi1")}


def test_hosts_count_as_one_thing() -> None:
    hosts = {**HOSTS, "pi2": {**HOST, "kernel": "6.12", "model": "Pi 5", "cores": 8}}
    old = "Pi 4 · aarch64 · cores 4 · Python 3.11.2 · 6.6"
    new = "Pi 5 · aarch64 · cores 8 · Python 3.11.2 · 6.12"
    assert differing(hosts=hosts) == {"hosts": (f"pi1 pi2 ({old})", f"pi1 ({old}), pi2 ({new})")}


def test_what_only_follows_does_not_count() -> None:
    more = {f"pi{n}": HOSTS["pi1"] for n in range(1, 5)}
    grown = {"hosts": more, "servers": list(more), "clients": ["pi1", "pi2"]}
    assert list(differing(**grown)) == ["hosts"]
    assert list(differing(**{**grown, "clients": list(more)})) == ["hosts", "clients"]
    assert list(differing(**grown, cluster="lab", links=links(1e9))) == ["cluster"]


def links(rate: float) -> dict[str, Any]:
    return {"pi1": {"in_bits_per_s": rate, "out_bits_per_s": 1.1 * rate}}


def test_links_differ_by_more_than_measuring_does() -> None:
    a, slow, equal = (
        run(n, manifest={"links": links(rate)}) for n, rate in enumerate((1e8, 1e7, 9e7))
    )
    assert compare.differences(a, equal) == {}
    assert compare.differences(a, slow) == {"links": ("100.0 Mbit/s", "10.0 Mbit/s")}
    unknown = run(3, manifest={"links": {}})
    assert compare.differences(a, unknown) == compare.differences(unknown, a) == {}
    assert compare.differences(slow, a) == {"links": ("10.0 Mbit/s", "100.0 Mbit/s")}


def test_two_differences_are_an_objection_and_one_is_what_is_compared() -> None:
    assert compare.objections([run(1)], [run(2, manifest=changed(window=32))]) == []
    both = changed(window=32, profile="classic")
    assert compare.objections([run(1)], [run(2, manifest=both)]) == [
        "A and B differ in more than one thing:\n  profile: fast | classic\n  window: 1 | 32"
    ]


def test_repeats_that_are_none_are_an_objection() -> None:
    odd = run(3, manifest=changed(window=32))
    (text,) = compare.objections([run(1)], [run(2), odd])
    assert text == "runs run-2 and run-3 of B are no repeats:\n  window: 1 | 32"
    (text,) = compare.objections([run(2), odd], [run(1)])
    assert "of A" in text


def test_an_incomplete_run_is_an_objection() -> None:
    broken = run(2, missing_clients=["pi3"], lost_ranges={"3": ["pi4", "pi5"]})
    text = "run run-2 is not complete: missing clients, lost ranges"
    assert compare.objections([run(1)], [broken]) == [text]
    assert compare.compare([run(1)], [broken])["objections"] == [text]


def test_a_fixed_rate_beside_a_closed_loop_is_an_objection() -> None:
    fixed = run(1, fixed_rate=1000.0)
    for a, b in ((fixed, run(2)), (run(2), fixed)):
        (text,) = compare.objections([a], [b])
        assert "closed loop" in text
    assert compare.objections([fixed], [run(2, fixed_rate=2000.0)]) == []
