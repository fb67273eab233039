"""The order of the servers on the ring, and key ranges that they cannot share out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import UsageError
from cluster.inventory import Cluster
from cluster.roster import check_placement, roster
from rdht.node.host import Folders
from rdht.ring import Ring
from rdht.roster import parse


def test_servers_stand_in_the_order_of_the_hosts(make_cluster: Callable[..., Cluster]) -> None:
    servers = roster(make_cluster(3)).servers
    assert [(server.name, server.host, server.address, server.port) for server in servers] == [
        ("pi1", "pi1", "10.0.0.1", 8080),
        ("pi2", "pi2", "10.0.0.2", 8080),
        ("pi3", "pi3", "10.0.0.3", 8080),
    ]


def test_second_servers_come_behind_all_first_ones(make_cluster: Callable[..., Cluster]) -> None:
    servers = roster(make_cluster(2, servers_per_host=2, server_port=9000)).servers
    assert [(server.name, server.port) for server in servers] == [
        ("pi1.0", 9000),
        ("pi2.0", 9000),
        ("pi1.1", 9001),
        ("pi2.1", 9001),
    ]


@pytest.mark.parametrize("servers_per_host", [1, 2, 3])
def test_both_replicas_of_a_range_never_share_a_host(
    make_cluster: Callable[..., Cluster], servers_per_host: int
) -> None:
    servers = roster(make_cluster(3, servers_per_host=servers_per_host))
    for primary, backup in Ring(servers, 100).ranges:
        assert servers.server(primary).host != servers.server(backup).host


def test_the_document_is_what_the_hosts_read(make_cluster: Callable[..., Cluster]) -> None:
    servers = roster(make_cluster(3, servers_per_host=2))
    assert parse(json.loads(json.dumps(servers.to_json()))) == servers


def test_the_document_leads_from_a_runs_folder_to_the_hosts_secret(
    make_cluster: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folders = Folders("shelf")
    run = folders.run("20261123-141502-shelf-3fa9")
    run.mkdir(parents=True)
    read = parse(roster(make_cluster(2)).to_json(), run)
    assert read.secret_file is not None
    assert read.secret_file.resolve() == folders.secret


@pytest.mark.parametrize(
    ("hosts", "servers_per_host", "key_range"), [(3, 1, 2), (3, 1, 0), (1, 4, 100), (3, 0, 100)]
)
def test_servers_that_cannot_share_a_key_range_are_a_mistake_of_usage(
    make_cluster: Callable[..., Cluster], hosts: int, servers_per_host: int, key_range: int
) -> None:
    cluster = make_cluster(hosts, servers_per_host=servers_per_host)
    with pytest.raises(UsageError, match=r"server"):
        check_placement(roster(cluster), key_range)


def test_one_bucket_a_server_is_enough(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(3)
    check_placement(roster(cluster), 3)
    assert len(Ring(roster(cluster), 3).ranges) == 3
