"""Schedules of faults: what chance may draw, what a file may say, and what never is."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster import deeds_file, fault_presets, schedule
from cluster.errors import UsageError
from cluster.fault_presets import PRESETS, REJOIN_S
from cluster.inventory import Cluster
from cluster.schedule import (
    CLOCK,
    CUT,
    KILL,
    KINDS,
    PAUSE,
    POWER,
    Deed,
    Scene,
    Schedule,
)

ROOT = Path(__file__).parents[3]
LONG_S = 600.0
SEEDS = range(5)
ALL = frozenset(KINDS)


@pytest.fixture
def scene_of(make_cluster: Callable[..., Cluster]) -> Callable[..., Scene]:
    def make(*, durable: bool = False, kinds: frozenset[str] = ALL, hosts: int = 5) -> Scene:
        return Scene.of(make_cluster(hosts), durable=durable, kinds=kinds)

    return make


def overlapping(made: Schedule, after_s: float = 0.0) -> list[tuple[Deed, Deed]]:
    """Return the pairs of deeds of which the later one begins before the other is over."""
    return [
        (one, other)
        for number, one in enumerate(made.deeds)
        for other in made.deeds[number + 1 : number + 40]
        if one.at_s <= other.at_s < one.until_s + after_s
    ]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("durable", [False, True])
def test_every_deed_ends_before_the_end_is_left_alone(
    scene_of: Callable[..., Scene], name: str, *, durable: bool
) -> None:
    for seed in SEEDS:
        for duration_s in (8.0, 60.0):
            made = fault_presets.make(name, seed, duration_s, scene_of(durable=durable))
            assert made.end_s <= duration_s - 1.5
            assert all(deed.until_s <= made.end_s + 0.01 for deed in made.deeds)
            assert all(deed.at_s >= 1.0 for deed in made.deeds)
            assert made.deeds


@pytest.mark.parametrize("name", PRESETS)
def test_in_memory_no_range_loses_both_its_servers(
    scene_of: Callable[..., Scene], name: str
) -> None:
    scene = scene_of()
    assert scene.neighbours["pi1"] == {"pi2", "pi5"}
    met = 0
    for seed in SEEDS:
        made = fault_presets.make(name, seed, LONG_S, scene)
        for one, other in overlapping(made, REJOIN_S):
            both = scene.downed(one), scene.downed(other)
            met += all(both)
            assert not (both[0] & both[1])
            assert not scene.loses(both[0] | both[1])
        assert not any(scene.loses(scene.downed(deed)) for deed in made.deeds)
    assert met or name == "gentle"  # two that share no range may well be down at once


@pytest.mark.parametrize("name", PRESETS)
def test_no_two_deeds_want_the_same_place(scene_of: Callable[..., Scene], name: str) -> None:
    scene = scene_of(durable=True)
    made = fault_presets.make(name, 1, LONG_S, scene)
    for one, other in overlapping(made):
        assert not scene.places(one) & scene.places(other)
    most = max(
        1 + sum(one.at_s <= deed.at_s < one.until_s for one in made.deeds if one is not deed)
        for deed in made.deeds
    )
    assert most <= PRESETS[name].most


def test_a_power_cut_takes_all_that_a_host_has(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of()
    power = Deed(1, POWER, 1, hosts=("pi2",))
    for other in (
        Deed(1, KILL, 1, servers=("pi2",)),
        Deed(1, PAUSE, 1, clients=("pi2",)),
        Deed(1, CUT, 1, hosts=("pi2",)),
    ):
        assert scene.places(power) & scene.places(other)
    assert not scene.places(power) & scene.places(Deed(1, KILL, 1, servers=("pi3",)))
    assert scene.downed(power) == scene.ended(power) == frozenset({"pi2"})


def test_a_seed_gives_one_schedule(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of()
    made = fault_presets.make("rough", 7, LONG_S, scene)
    assert made == fault_presets.make("rough", 7, LONG_S, scene)
    assert made.deeds != fault_presets.make("rough", 8, LONG_S, scene).deeds
    assert made.deeds != fault_presets.make("hell", 7, LONG_S, scene).deeds
    assert schedule.recorded(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("durable", [False, True])
def test_a_preset_makes_what_it_says(
    scene_of: Callable[..., Scene], name: str, *, durable: bool
) -> None:
    made = fault_presets.make(name, 1, 3600.0, scene_of(durable=durable))
    counts = Counter(deed.kind for deed in made.deeds)
    assert set(counts) == {word.partition(" ")[0] for word in PRESETS[name].bag}
    assert len(made.deeds) > 0.6 * 3600 / PRESETS[name].gap_s
    at_once = [deed for deed in made.deeds if len(deed.servers) > 1]
    assert bool(at_once) == (durable and name != "gentle")
    cuts = [deed for deed in made.deeds if deed.kind == CUT]
    shapes = {(bool(deed.peers), deed.ring, deed.one_way) for deed in cuts}
    assert len(shapes) == (1 if name == "gentle" else 5)


def test_what_a_cluster_cannot_do_is_left_out_and_said(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of(kinds=frozenset({KILL, PAUSE}))
    made = fault_presets.make("hell", 1, LONG_S, scene)
    assert {deed.kind for deed in made.deeds} == {KILL, PAUSE}
    assert made.left_out == ("cut", "slow", "loss", "power", "clock")
    assert fault_presets.make("hell", 1, LONG_S, scene_of()).left_out == ()
    two = fault_presets.make("hell", 1, LONG_S, scene_of(hosts=2))
    assert not any(deed.ring or len(deed.hosts) > 1 for deed in two.deeds)


def test_on_a_ring_each_host_reaches_its_two_neighbours() -> None:
    hosts = ("a", "b", "c", "d", "e")
    cuts = Deed(1, CUT, 1, hosts=hosts, ring=True).cuts()
    assert cuts["a"] == ("c", "d")
    assert all(host in cuts[other] for host, others in cuts.items() for other in others)
    assert Deed(1, CUT, 1, hosts=("a",), peers=("b",)).cuts() == {"a": ("b",)}


def test_a_file_says_the_same_in_yaml_and_json(
    scene_of: Callable[..., Scene], tmp_path: Path
) -> None:
    rows = [
        {"at": 9, "kind": "cut", "hosts": ["pi1"], "from": "pi3", "one_way": "in", "for": 2.5},
        {"at": 2, "kind": "kill", "servers": ["pi1"], "for": 1},
        {"at": 3, "kind": "loss", "hosts": ["pi1", "pi2"], "for": 1},
    ]
    path = tmp_path / "deeds.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    made = deeds_file.read(path, 60.0, scene_of())
    assert [str(deed) for deed in made.deeds] == [
        "kill of server pi1",
        "loss of 20 % at pi1, pi2",
        "cut of pi1 from pi3, in only",
    ]
    assert made.deeds[2] == Deed(9.0, CUT, 2.5, hosts=("pi1",), peers=("pi3",), one_way="in")
    path.write_text("- {at: 2, kind: kill, servers: pi1, for: 1}\n", encoding="utf-8")
    assert deeds_file.read(path, 60.0, scene_of()).deeds == made.deeds[:1]


def test_the_example_in_the_documentation_can_be_read(
    scene_of: Callable[..., Scene], tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = [line.strip() for line in page.splitlines() if line.startswith("    - {at")]
    path = tmp_path / "deeds.yaml"
    path.write_text("\n".join(rows), encoding="utf-8")
    made = deeds_file.read(path, 60.0, scene_of())
    assert {deed.kind for deed in made.deeds} == set(KINDS)
    assert made.deeds[6].cuts()["pi1"] == ("pi3", "pi4")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: kill", "expected a list of deeds"),
        ("[3]", "deed 1: 3 is no deed, such as"),
        ("- {at: 1, kind: kill, for: 1, serv: pi1}", "no such field 'serv'; there are"),
        ("- {kind: kill, for: 1}", "does not say 'at'"),
        ("- {at: 1, kind: flood, for: 1}", "kind 'flood' is none of kill, pause"),
        ("- {at: 1, kind: kill, for: 1, rate: 1mbit}", "a kill has no rate"),
        ("- {at: soon, kind: kill, for: 1, servers: pi1}", "at_s: 'soon' is no number"),
        ("- {at: 1, kind: kill, for: 1, servers: 3}", "servers: 3 is no list of names"),
        ("- {at: 1, kind: kill, for: 1, servers: pi9}", "there is no server pi9; there are pi1"),
        ("- {at: 1, kind: cut, for: 1, hosts: pi1, from: pi9}", "there is no host pi9"),
        ("- {at: 1, kind: kill, for: 1}", "a kill needs clients or servers"),
        ("- {at: 47, kind: kill, for: 4, servers: pi1}", "all is to end by 50 s"),
        ("- {at: 1, kind: cut, for: 1, hosts: pi1, one_way: up}", "neither in nor out"),
        ("- {at: 1, kind: loss, for: 1, hosts: pi1, percent: 100}", "percent 100 is not 1 to 99"),
        ("- {at: 1, kind: clock, for: 1, hosts: pi1}", "says no 'jump'"),
        ("- {at: 1, kind: clock, for: 1, hosts: pi1, jump: 5}", "this cluster can do no clock"),
        (
            "- {at: 1, kind: cut, for: 1, hosts: pi1, from: [pi2, pi1]}",
            "pi1 cannot be cut from its",
        ),
        ("- {at: 1, kind: cut, for: 1, hosts: [pi1, pi2, pi3], ring: true}", "of 4 hosts or more"),
        ("- {at: 1, kind: kill, for: 1, servers: [pi1, pi2]}", "pi1 and pi2 hold a range together"),
        ("- {at: 1, kind: slow, for: 1, hosts: pi1, rate: 3}", "rate: 3 is no str"),
        (
            "- {at: 1, kind: slow, for: 1, hosts: pi1, rate: fast}",
            "'fast' is not written like 10mbit",
        ),
        ("- [", "no YAML"),
    ],
)
def test_a_mistake_in_a_file_is_named(
    scene_of: Callable[..., Scene], tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "deeds.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        deeds_file.read(path, 60.0, scene_of(kinds=ALL - {CLOCK}))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_preset_and_no_file_is_refused(
    scene_of: Callable[..., Scene], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="neither gentle nor rough nor hell, nor a file"):
        deeds_file.read(tmp_path / "ruff", 60.0, scene_of())
