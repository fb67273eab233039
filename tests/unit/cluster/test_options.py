"""The options of an experiment: what is refused, and what reaches `python -m rdht client`."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rdht.__main__ as rdht_main
from cluster.errors import UsageError
from cluster.inventory import Cluster
from cluster.options import ClientOptions, ServerOptions
from cluster.roster import roster
from rdht.limits import MAX_VALUE_BYTES, MAX_WINDOW, RECEIVE_BYTES
from rdht.profiles import PROFILES
from rdht.workloads import WORKLOADS


def test_every_option_explains_itself() -> None:
    for option in dataclasses.fields(ClientOptions) + dataclasses.fields(ServerOptions):
        assert option.metadata["help"], option.name


def test_the_defaults_are_right(make_cluster: Callable[..., Cluster]) -> None:
    checked = ClientOptions().checked(roster(make_cluster()))
    assert dataclasses.replace(checked, seed=None) == ClientOptions()


@pytest.mark.parametrize(
    ("name", "value", "option"),
    [
        ("threads", 0, "threads"),
        ("threads", -1, "threads"),
        ("key_size", 0, "key-size"),
        ("key_size", 100_000, "key-size"),  # no frame holds such a key
        ("commands", -1, "commands"),
        ("get_ratio", -0.01, "get-ratio"),
        ("get_ratio", 1.01, "get-ratio"),
        ("get_ratio", math.nan, "get-ratio"),
        ("duration", 0.0, "duration"),
        ("duration", -1.0, "duration"),
        ("duration", math.inf, "duration"),
        ("duration", math.nan, "duration"),
        ("target_rate", -1.0, "target-rate"),
        ("target_rate", 0.0001, "target-rate"),
        ("target_rate", math.inf, "target-rate"),
        ("target_rate", math.nan, "target-rate"),
        ("warmup", -1.0, "warmup"),
        ("warmup", 61.0, "warmup"),
        ("warmup", math.nan, "warmup"),
        ("workload", "ycsb-e", "workload"),
        ("records", 0, "records"),
        ("value_bytes", 0, "value-bytes"),
        ("value_bytes", MAX_VALUE_BYTES + 1, "value-bytes"),
        ("profile", "clasic", "profile"),
        ("window", 0, "window"),
        ("window", MAX_WINDOW, "window"),
        ("frame_bytes", -1, "frame-bytes"),
        ("frame_bytes", RECEIVE_BYTES + 1, "frame-bytes"),
        ("seed", "many", "seed"),
        ("seed", "1.5", "seed"),
        ("seed", "", "seed"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(
    make_cluster: Callable[..., Cluster], name: str, value: Any, option: str
) -> None:
    options = dataclasses.replace(ClientOptions(), **{name: value})
    with pytest.raises(UsageError, match=rf"^--{option} {value} is not "):
        options.checked(roster(make_cluster()))


def test_a_workload_that_cannot_be_here_says_why(make_cluster: Callable[..., Cluster]) -> None:
    with pytest.raises(UsageError, match="scans keys in their order, and a hash table has none"):
        ClientOptions(workload="ycsb-e").checked(roster(make_cluster()))


@pytest.mark.parametrize(
    ("workload", "name", "value", "whose"),
    [
        ("classic", "records", 5, "a YCSB workload"),
        ("classic", "value_bytes", 5, "a YCSB workload"),
        ("ycsb-a", "key_size", 5, "the classic workload"),
        ("ycsb-a", "get_ratio", 0.5, "the classic workload"),
    ],
)
def test_an_option_that_a_workload_has_no_use_for_is_refused(
    make_cluster: Callable[..., Cluster], workload: str, name: str, value: Any, whose: str
) -> None:
    options = dataclasses.replace(ClientOptions(workload=workload), **{name: value})
    option = name.replace("_", "-")
    with pytest.raises(UsageError, match=rf"^--{option} is of {whose}: --workload {workload} "):
        options.checked(roster(make_cluster()))


def test_a_key_range_below_the_number_of_servers_is_refused(
    make_cluster: Callable[..., Cluster],
) -> None:
    with pytest.raises(UsageError, match="key range 2"):
        ClientOptions(key_range=2).checked(roster(make_cluster(3)))


def test_a_typed_seed_is_kept_and_another_is_drawn(make_cluster: Callable[..., Cluster]) -> None:
    typed = dataclasses.replace(ClientOptions(), seed="42")  # type: ignore[arg-type]
    assert typed.checked(roster(make_cluster())).seed == 42
    assert ClientOptions(seed=0).checked(roster(make_cluster())).seed == 0
    drawn = {ClientOptions().checked(roster(make_cluster())).seed for _ in range(8)}
    assert len(drawn) > 1
    assert None not in drawn


def test_a_number_of_commands_wins_over_the_duration() -> None:
    assert ClientOptions(commands=5).duration_s is None
    assert ClientOptions(duration=2.5).duration_s == 2.5


@given(
    threads=st.integers(1, 100),
    key_size=st.integers(1, 100),
    key_range=st.integers(1, 10**9),
    get_ratio=st.floats(0, 1),
    commands=st.integers(0, 10**9),
    duration=st.floats(0, 1e9, exclude_min=True),
    workload=st.sampled_from(WORKLOADS),
    records=st.integers(1, 10**9),
    value_bytes=st.integers(1, MAX_VALUE_BYTES),
    target_rate=st.just(0.0) | st.floats(0.001, 1e6),
    warmup=st.floats(0, 60),
    seed=st.integers(0, 2**32),
    profile=st.sampled_from(sorted(PROFILES)),
    window=st.integers(1, MAX_WINDOW - 1),
    trace=st.booleans(),
)
def test_a_client_parses_its_command_line_back_to_the_options(**values: object) -> None:
    options = ClientOptions(**values)  # type: ignore[arg-type]
    argv = options.argv("pi1.0", "client.0", "roster.json", 5)
    parsed = vars(rdht_main._parser().parse_args(argv))
    assert parsed["rate"] == (options.target_rate / 5 or None)
    elsewhere = ("duration", "target_rate")
    expected = {name: value for name, value in values.items() if name not in elsewhere}
    expected["commands"] = options.commands or None
    if not options.commands:
        expected["duration"] = options.duration
    assert {name: parsed[name] for name in expected} == expected
    assert parsed["name"] == "pi1.0"
    files = [str(parsed[name]) for name in ("results", "progress", "start_file", "roster")]
    assert files == ["results.0.json", "client.0.progress.json", "start.json", "roster.json"]


@given(workers=st.integers(1, 1000), trace=st.booleans(), durable=st.booleans())
def test_a_server_parses_its_command_line_back_to_the_options(**values: Any) -> None:
    options = ServerOptions(**values).checked()
    parsed = vars(rdht_main._parser().parse_args(options.argv("pi1.0", "roster.json")))
    assert (parsed["name"], parsed["roster"]) == ("pi1.0", "roster.json")
    assert (parsed["workers"], parsed["trace"]) == (options.workers, options.trace)
    assert parsed["durable"] == (Path("data/pi1.0") if options.durable else None)


def test_servers_without_a_thread_are_a_mistake_of_usage() -> None:
    with pytest.raises(UsageError, match=r"^--workers 0 is not "):
        ServerOptions(workers=0).checked()
