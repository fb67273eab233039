"""What a sweep runs next, when it has enough, and that it goes on where it was."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis import sweep as analysis
from cluster import runs, sweeps
from cluster.errors import ClusterError, UsageError
from cluster.inventory import Cluster
from cluster.sweeps import Point, Sweep

MakeCluster = Callable[..., Cluster]
AXES: dict[str, list[Any]] = {"key_size": [1, 2, 3, 4], "profile": ["classic", "fast"]}
POINTS, REPEAT = 8, 3


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def plan(make_cluster: MakeCluster) -> dict[str, Any]:
    return sweeps.plan(make_cluster(), "0123456789ab", {"": AXES}, REPEAT, 0.05)


@pytest.fixture
def sweep(logs: Path, make_cluster: MakeCluster, plan: dict[str, Any]) -> Sweep:
    return sweeps.begin(logs, make_cluster(), plan, sweeps.points_of({"": AXES}))


def run_all(sweep: Sweep, most: int = 1000) -> list[tuple[dict[str, Any], int]]:
    """Run up to so many points; return the values and the seed of each run."""
    made: list[tuple[dict[str, Any], int]] = []
    while len(made) < most and (point := sweep.next()):
        made.append((point.values, sweep.seed(point)))
        sweep.add(point, f"run{sweep.done}", 100.0, is_sure=False)
    return made


def order_of(made: list[tuple[dict[str, Any], int]]) -> list[str]:
    return [json.dumps(values) for values, _ in made]


def test_points_are_all_combinations_in_the_order_typed() -> None:
    points = sweeps.points_of({"": {"window": [8, 1], "durable": [True, False]}})
    assert [tuple(point.values.items()) for point in points] == [
        (("window", 8), ("durable", True)),
        (("window", 8), ("durable", False)),
        (("window", 1), ("durable", True)),
        (("window", 1), ("durable", False)),
    ]
    assert [point.values for point in sweeps.points_of({"": {}})] == [{}]


def test_more_points_than_a_sweep_has_are_refused_before_they_are_made() -> None:
    many: dict[str, list[Any]] = {f"axis{number}": list(range(100)) for number in range(9)}
    with pytest.raises(UsageError, match=r"1,000,000,000,000,000,000 points .* at most 1,000"):
        sweeps.points_of({"": many})


def test_each_round_has_all_points_in_an_order_of_its_own(sweep: Sweep) -> None:
    order = order_of(run_all(sweep))
    rounds = [order[start : start + POINTS] for start in range(0, len(order), POINTS)]
    assert len(rounds) == REPEAT
    assert {tuple(sorted(one)) for one in rounds} == {tuple(sorted(rounds[0]))}
    assert len(set(rounds[0])) == POINTS
    assert len({tuple(one) for one in rounds}) == REPEAT
    assert sweep.next() is None
    assert (sweep.done, sweep.left) == (POINTS * REPEAT, 0)


def test_the_points_of_a_round_share_a_seed_and_rounds_do_not(sweep: Sweep) -> None:
    seeds = [seed for _, seed in run_all(sweep)]
    rounds = [set(seeds[start : start + POINTS]) for start in range(0, len(seeds), POINTS)]
    assert [len(one) for one in rounds] == [1] * REPEAT
    assert len(set.union(*rounds)) == REPEAT


def test_two_sweeps_have_other_orders_and_seeds(
    logs: Path, make_cluster: MakeCluster, plan: dict[str, Any]
) -> None:
    made = [
        run_all(sweeps.begin(logs, make_cluster(), plan, sweeps.points_of({"": AXES})))
        for _ in range(2)
    ]
    assert order_of(made[0]) != order_of(made[1])
    assert {seed for _, seed in made[0]}.isdisjoint({seed for _, seed in made[1]})


def test_a_point_that_is_sure_is_run_no_more(sweep: Sweep) -> None:
    point = sweep.next()
    assert point
    sweep.add(point, "run", 100.0, is_sure=True)
    assert sweep.left == (POINTS - 1) * REPEAT
    counted = Counter(order_of(run_all(sweep)))
    assert json.dumps(point.values) not in counted
    assert set(counted.values()) == {REPEAT}
    assert len(counted) == POINTS - 1


def test_a_run_that_came_to_nothing_is_repeated_with_its_seed(sweep: Sweep) -> None:
    point = sweep.next()
    assert point
    seed = sweep.seed(point)
    sweep.fail("pi2 was away")
    assert sweep.next() is point
    assert sweep.seed(point) == seed
    assert (sweep.done, sweep.left) == (0, POINTS * REPEAT)
    assert saved(sweep)["failures"] == ["pi2 was away"]


def saved(sweep: Sweep) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((sweep.folder / sweeps.STATE).read_text("utf-8"))
    return document


def test_what_the_file_says_is_what_was_done(sweep: Sweep) -> None:
    run_all(sweep, 1)
    document = saved(sweep)
    assert document["sweep"] == sweep.folder.name == sweep.name
    assert document["between_runs"] == "the servers are started anew, and hold nothing"
    assert (document["hosts"], document["release"]) == (["pi1", "pi2", "pi3"], "0123456789ab")
    assert [row["runs"] for row in document["points"] if row["runs"]] == [["run0"]]
    assert document["ended"] is None
    sweep.end()
    assert saved(sweep)["ended"]
    assert (analysis.STATE, sweeps.RUNS) == (sweeps.STATE, "runs"), "as analysis/ reads them"


@pytest.mark.parametrize("before", [0, 1, POINTS - 1, POINTS, 2 * POINTS + 3, REPEAT * POINTS])
def test_a_sweep_goes_on_where_it_was(
    sweep: Sweep, logs: Path, plan: dict[str, Any], before: int
) -> None:
    untouched = sweeps.read(sweep.folder)
    assert untouched
    made = run_all(sweep, before)
    again = sweeps.unfinished(logs, plan)
    assert again
    assert again is not sweep
    assert (again.name, again.done) == (sweep.name, before)
    made += run_all(again)
    untouched.folder = logs
    assert made == run_all(untouched), "as if it had never ended"
    assert again.next() is None


def test_whether_a_point_is_sure_is_kept(sweep: Sweep, logs: Path, plan: dict[str, Any]) -> None:
    point = sweep.next()
    assert point
    sweep.add(point, "run", 123.4, is_sure=True)
    again = sweeps.unfinished(logs, plan)
    assert again
    assert again.points == sweep.points
    assert Point("", point.values, ["run"], [123.4], is_sure=True) in again.points


@pytest.mark.parametrize(
    "changed",
    [
        {"release": "ba9876543210"},
        {"hosts": ["pi1", "pi2"]},
        {"inventory": "ffffffffffff"},
        {"cluster": "lab"},
        {"axes": {**AXES, "key_size": [1, 2, 3]}},
        {"axes": {**AXES, "window": [1]}},
        {"repeat": REPEAT + 1},
        {"precision": 0.1},
    ],
)
def test_another_sweep_is_not_gone_on_with(
    sweep: Sweep, logs: Path, plan: dict[str, Any], changed: dict[str, Any]
) -> None:
    assert sweeps.unfinished(logs, {**plan, **changed}) is None
    assert sweeps.unfinished(logs, plan)


def test_a_sweep_that_has_ended_is_not_gone_on_with(
    sweep: Sweep, logs: Path, plan: dict[str, Any]
) -> None:
    sweep.end()
    assert sweeps.unfinished(logs, plan) is None


def test_of_several_the_latest_is_gone_on_with(
    sweep: Sweep, logs: Path, plan: dict[str, Any]
) -> None:
    older = logs / "sweep-20200101-000000-shelf-0000"
    older.mkdir()
    (older / sweeps.STATE).write_text((sweep.folder / sweeps.STATE).read_text("utf-8"), "utf-8")
    found = sweeps.unfinished(logs, plan)
    assert found
    assert found.folder == sweep.folder


def test_without_logs_there_is_none_to_go_on_with(tmp_path: Path, plan: dict[str, Any]) -> None:
    assert sweeps.unfinished(tmp_path / "nowhere", plan) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "\x00\x00", "[]", "null", '"text"', "{}", '{"points": 1}'),
        '{"points": [[]]}',
        '{"points": [{"values": {}, "of_another_version": 1}]}',
        '{"points": []}',
    ],
)
def test_a_state_that_cannot_be_read_is_left_alone(
    sweep: Sweep, logs: Path, plan: dict[str, Any], text: str
) -> None:
    (sweep.folder / sweeps.STATE).write_text(text, encoding="utf-8")
    assert sweeps.unfinished(logs, plan) is None
    assert (sweep.folder / sweeps.STATE).read_text("utf-8") == text
    (sweep.folder / sweeps.STATE).unlink()
    assert sweeps.unfinished(logs, plan) is None


def test_a_state_that_cannot_be_written_leaves_the_one_before(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved(sweep)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        sweep.fail("something")
    assert saved(sweep) == before


KINDS: dict[str, type] = {"key_size": int, "get_ratio": float, "profile": str, "durable": bool}


def test_values_are_read_as_their_option_has_them_each_once() -> None:
    typed = {
        "key_size": "4,1,4,01",
        "get_ratio": "0.5,1,.5",
        "profile": "fast,classic",
        "durable": "yes,no,yes",
    }
    axes = sweeps.axes_of(typed, KINDS)
    assert axes == {
        "key_size": [4, 1],
        "get_ratio": [0.5, 1.0],
        "profile": ["fast", "classic"],
        "durable": [True, False],
    }
    assert [type(value) for value in axes["get_ratio"]] == [float, float]


@pytest.mark.parametrize(
    ("option", "text", "why"),
    [
        ("key_size", "1,x", "--key-size: 'x' is not a whole number"),
        ("key_size", "1,,2", "--key-size: '' is not a whole number"),
        ("key_size", "1.5", "--key-size: '1.5' is not a whole number"),
        ("key_size", "1 2", "--key-size: '1 2' is not a whole number"),
        ("get_ratio", "half", "--get-ratio: 'half' is not a number"),
        ("durable", "true", "--durable: 'true' is not yes or no"),
        ("durable", "yes,", "--durable: '' is not yes or no"),
    ],
)
def test_a_value_that_is_none_is_named(option: str, text: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        sweeps.axes_of({option: text}, KINDS)
    assert str(caught.value) == why


@pytest.mark.parametrize(
    ("repeat", "precision", "why"),
    [
        (0, 0.05, "--repeat 0 is not a number from 1 on"),
        (-1, 0.05, "--repeat -1 is not"),
        (1, 0.0, "--precision 0.0 is not a number between 0 and 1"),
        (1, 1.0, "--precision 1.0 is not"),
        (1, float("nan"), "--precision nan is not"),
    ],
)
def test_repeats_and_a_precision_that_cannot_be_are_refused(
    make_cluster: MakeCluster, repeat: int, precision: float, why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        sweeps.plan(make_cluster(), "0123456789ab", {"": AXES}, repeat, precision)


def test_a_point_is_said_as_it_is_typed_where_points_differ() -> None:
    axes: dict[str, list[Any]] = {"durable": [True, False], "get_ratio": [0.25, 1.0], "window": [8]}
    sweep = Sweep(Path(), {"parts": {"": axes}}, sweeps.points_of({"": axes}))
    assert sweep.said(sweep.points[0]) == "--durable yes --get-ratio 0.25"
    assert sweep.said(sweep.points[3]) == "--durable no --get-ratio 1.0"
    assert sweeps.typed(sweep.points[3].values) == "--durable no --get-ratio 1.0 --window 8"
    assert sweeps.typed({}) == "the one point"


def test_a_second_sweep_of_a_cluster_waits_for_the_first_to_end(
    logs: Path, make_cluster: MakeCluster
) -> None:
    with sweeps.alone(logs, make_cluster()):
        refusal = pytest.raises(ClusterError, match="another fab sweep is at work on cluster shelf")
        with refusal, sweeps.alone(logs, make_cluster()):
            pytest.fail("two at a time")
    with sweeps.alone(logs, make_cluster()):
        assert list(logs.glob("sweep-*")) == []


def test_a_run_of_a_sweep_is_found_by_its_name(sweep: Sweep, make_cluster: MakeCluster) -> None:
    logs = sweep.folder.parent
    run = runs.begin(sweep.runs, make_cluster(), "0123456789ab", dry_run=False)
    assert runs.load(logs, run.name, make_cluster()).folder == run.folder
    with pytest.raises(UsageError, match="holds no run yet"):
        runs.load(logs, None)
    with pytest.raises(UsageError, match="there is no run a\\*\\* in"):
        runs.load(logs, "a**")


def test_the_points_of_all_parts_are_in_one_sweep_and_say_which_they_are_of() -> None:
    parts: dict[str, Any] = {
        "size": {"key_size": [1, 2]},
        "rate": {"window": [8], "workers": [1, 2]},
    }
    sweep = Sweep(Path(), {"parts": parts}, sweeps.points_of(parts))
    assert [sweep.said(point) for point in sweep.points] == [
        *("size --key-size 1", "size --key-size 2", "rate --workers 1", "rate --workers 2"),
    ]
