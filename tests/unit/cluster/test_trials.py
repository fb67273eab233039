"""What each option of a sweep becomes in one of its points, and which points cannot be."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from cluster.errors import UsageError
from cluster.inventory import Cluster
from cluster.options import ClientOptions, ServerOptions
from cluster.trials import KINDS, SweepOptions, Trial

MakeCluster = Callable[..., Cluster]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"key_size": 3}, {"key_size": 3}),
        ({"key_range": 77}, {"key_range": 77}),
        ({"threads": 2}, {"threads": 2}),
        ({"window": 32}, {"window": 32}),
        ({"get_ratio": 0.25}, {"get_ratio": 0.25}),
        ({"frame_bytes": 1000}, {"frame_bytes": 1000}),
        ({"profile": "fast"}, {"profile": "fast"}),
        ({"duration": 0.5}, {"duration": 0.5}),
        ({"commands": 7}, {"commands": 7}),
        ({"warmup": 0.0}, {"warmup": 0.0}),
        ({"target_rate": 500.0}, {"target_rate": 500.0}),
        (
            {"workload": "ycsb-a", "value_bytes": 10, "records": 3},
            {"workload": "ycsb-a", "value_bytes": 10, "records": 3},
        ),
    ],
)
def test_what_is_of_the_clients_goes_to_them_alone(
    make_cluster: MakeCluster, values: dict[str, Any], expected: dict[str, Any]
) -> None:
    cluster = make_cluster(5)
    trial = Trial.of(values, cluster)
    assert differing(trial.clients, ClientOptions()) == expected
    assert (trial.servers, trial.cluster) == (ServerOptions(), cluster)


def differing(chosen: Any, default: Any) -> dict[str, Any]:
    """Return what was chosen otherwise, but for the seed, which each run has of its own."""
    usual = {**vars(default), "seed": chosen.seed}
    return {name: value for name, value in vars(chosen).items() if value != usual[name]}


@pytest.mark.parametrize("values", [{"workers": 3}, {"durable": True}])
def test_what_is_of_the_servers_goes_to_them_alone(
    make_cluster: MakeCluster, values: dict[str, Any]
) -> None:
    trial = Trial.of(values, make_cluster(5))
    assert differing_servers(trial) == values
    assert differing(trial.clients, ClientOptions()) == {}


def differing_servers(trial: Trial) -> dict[str, Any]:
    usual = vars(ServerOptions())
    return {name: value for name, value in vars(trial.servers).items() if value != usual[name]}


def test_sizes_choose_a_part_of_the_cluster_and_keep_its_hosts(make_cluster: MakeCluster) -> None:
    trial = Trial.of({"servers": 2, "clients": 3}, make_cluster(5))
    assert [host.name for host in trial.cluster.hosts] == ["pi1", "pi2", "pi3", "pi4", "pi5"]
    assert [host.servers_per_host for host in trial.cluster.hosts] == [1, 1, 0, 0, 0]
    assert [host.clients_per_host for host in trial.cluster.hosts] == [1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"key_size": 0}, "--key-size 0 is not a number from 1 to"),
        ({"window": 2000}, "--window 2000 is not"),
        ({"get_ratio": 1.5}, "--get-ratio 1.5 is not a number from 0 to 1"),
        ({"get_ratio": float("nan")}, "--get-ratio nan is not"),
        ({"frame_bytes": 65_537}, "--frame-bytes 65537 is not a number up to 65,536"),
        ({"profile": "slow"}, "--profile slow is not classic or fast"),
        ({"workload": "ycsb-e"}, "a hash table has none"),
        ({"value_bytes": 10}, "--value-bytes is of a YCSB workload: --workload classic has no"),
        ({"workload": "ycsb-a", "key_size": 2}, "--key-size is of the classic workload"),
        ({"workers": 0}, "--workers 0 is not a number from 1 on"),
        ({"servers": 6}, "--servers 6: the inventory has 1 to 5 servers"),
        ({"clients": -1}, "--clients -1: the inventory has 1 to 5 clients"),
        ({"servers": 1}, "a table needs at least two servers"),
        ({"key_range": 4}, "key range 4 is below the number of servers, 5"),
        ({"commands": 5, "duration": 2.0}, "--duration ends no clients that --commands ends"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    make_cluster: MakeCluster, values: dict[str, Any], why: str
) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        Trial.of(values, make_cluster(5))
    assert "\n" not in str(caught.value)


def test_fewer_servers_can_have_a_key_range_that_all_cannot(make_cluster: MakeCluster) -> None:
    trial = Trial.of({"key_range": 4, "servers": 4}, make_cluster(5))
    assert trial.clients.key_range == 4


def test_all_options_of_an_experiment_can_be_swept_but_the_seed_and_the_trace() -> None:
    offered = {one.name: one for one in fields(SweepOptions)}
    own = {one.name for kind in (ClientOptions, ServerOptions) for one in fields(kind)}
    assert (
        set(offered)
        == set(KINDS)
        == own - {"seed", "trace"}
        | {*("servers", "clients", "link_rate", "one_link_rate", "one_loss")}
    )
    assert {one.default for one in offered.values()} == {None}
    assert set(KINDS.values()) == {int, float, str, bool}


def test_the_help_says_what_an_option_is_if_it_is_left_out() -> None:
    texts = {one.name: one.metadata["help"] for one in fields(SweepOptions)}
    assert texts["threads"] == "threads of each client (default 8)"
    assert texts["get_ratio"].endswith("(default 0.6)")
    assert texts["durable"].startswith("yes or no: ")
    assert texts["servers"].endswith("(default: all)")
    assert all("(default" in text for name, text in texts.items() if name not in _WITHOUT)


_WITHOUT = {"durable", "link_rate", "one_link_rate", "one_loss"}
