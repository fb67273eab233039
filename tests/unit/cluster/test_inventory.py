"""Inventory: what a right file gives, and how each mistake in a wrong one is named."""

import re
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, fields
from pathlib import Path

import pytest
import yaml

from cluster import inventory
from cluster.errors import EXIT_USAGE, InventoryError, UsageError
from cluster.inventory import Cluster, Gateway, Host
from lab.netns import addresses

INVENTORY = Path(__file__).parents[3] / "inventory"
Load = Callable[[str], Cluster]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load_text(text: str) -> Cluster:
        path = tmp_path / "shelf.yaml"
        path.write_text(text, encoding="utf-8")
        return inventory.load(path)

    return load_text


ONE_HOST = """\
hosts:
  pi1:
    address: pi1.local
"""
TWO_HOSTS = (
    ONE_HOST
    + """\
  pi2:
    address: pi2.local
"""
)

# The text of the file · the line and the field that the mistake is in · what the reason says.
MISTAKES: dict[str, tuple[str, int, str, list[str]]] = {
    "typo in a host's field": (
        ONE_HOST + "    ssh_prot: 22\n",
        4,
        "hosts.pi1.ssh_prot",
        ["did you mean 'ssh_port'?"],
    ),
    "typo in a default": (
        "defaults:\n  usr: pi\n" + ONE_HOST,
        2,
        "defaults.usr",
        ["did you mean 'user'?"],
    ),
    "typo at the top": (
        "host:\n  pi1: {address: a}\n",
        1,
        "host",
        ["did you mean 'hosts'?"],
    ),
    "unknown field, like no other": (
        ONE_HOST + "    colour: red\n",
        4,
        "hosts.pi1.colour",
        ["no such field", "address", "clients_per_host", "server_port"],
    ),
    "two hosts with one name": (
        TWO_HOSTS + "  pi1:\n    address: pi3.local\n",
        6,
        "hosts.pi1",
        ["line 2", "names must differ"],
    ),
    "one field twice": (
        ONE_HOST + "    address: pi2.local\n",
        4,
        "hosts.pi1.address",
        ["line 3"],
    ),
    "a text where a number belongs": (
        ONE_HOST + "    server_port: http\n",
        4,
        "hosts.pi1.server_port",
        ["'http'", "1 to 65535"],
    ),
    "a quoted number": (
        ONE_HOST + "    server_port: '8080'\n",
        4,
        "hosts.pi1.server_port",
        ["'8080'", "1 to 65535"],
    ),
    "a fraction where a whole number belongs": (
        ONE_HOST + "    servers_per_host: 1.5\n",
        4,
        "hosts.pi1.servers_per_host",
        ["1.5", "0 to 64"],
    ),
    "a truth where a number belongs": (
        ONE_HOST + "    servers_per_host: true\n",
        4,
        "hosts.pi1.servers_per_host",
        ["True", "0 to 64"],
    ),
    "a number where a text belongs": (
        ONE_HOST + "    user: 7\n",
        4,
        "hosts.pi1.user",
        ["7", "user name"],
    ),
    "a list where one value belongs": (
        ONE_HOST + "    python: [python3]\n",
        4,
        "hosts.pi1.python",
        ["one value"],
    ),
    "a field without a value": (
        ONE_HOST + "    user:\n",
        4,
        "hosts.pi1.user",
        ["one value"],
    ),
    "an address that is two words": (
        "hosts:\n  pi1:\n    address: pi one\n",
        3,
        "hosts.pi1.address",
        ["'pi one'", "host name or IP address"],
    ),
    "an address that reads as a date that does not exist": (
        "hosts:\n  pi1:\n    address: 2026-13-45\n",
        3,
        "hosts.pi1.address",
        ["host name or IP address"],
    ),
    "a value with a tag of its own": (
        "hosts:\n  pi1:\n    address: !secret pi1\n",
        3,
        "hosts.pi1.address",
        [],
    ),
    "port 0": (
        ONE_HOST + "    ssh_port: 0\n",
        4,
        "hosts.pi1.ssh_port",
        ["0", "1 to 65535"],
    ),
    "port too high": (
        "defaults:\n  server_port: 65536\n" + ONE_HOST,
        2,
        "defaults.server_port",
        ["65536", "1 to 65535"],
    ),
    "more servers than there are ports": (
        ONE_HOST + "    server_port: 65535\n    servers_per_host: 2\n",
        2,
        "hosts.pi1",
        ["65535"],
    ),
    "too many hosts": (
        "hosts:\n" + "".join(f"  pi{number}: {{address: pi{number}}}\n" for number in range(129)),
        2,
        "hosts",
        ["names 129 hosts", "128"],
    ),
    "too many servers": (
        ONE_HOST + "    servers_per_host: 65\n",
        4,
        "hosts.pi1.servers_per_host",
        ["65", "0 to 64"],
    ),
    "a negative number of clients": (
        ONE_HOST + "    clients_per_host: -1\n",
        4,
        "hosts.pi1.clients_per_host",
        ["-1", "0 to 64"],
    ),
    "a home that nobody has": (
        ONE_HOST + "    identity_file: ~no-such-user-here/.ssh/id\n",
        4,
        "hosts.pi1.identity_file",
        [],
    ),
    "a host without an address": (
        TWO_HOSTS + "  pi3:\n    user: pi\n",
        6,
        "hosts.pi3",
        ["address:"],
    ),
    "a host without any field": (
        "hosts:\n  pi1:\n",
        2,
        "hosts.pi1",
        ["address:"],
    ),
    "a host that is one value": (
        "hosts:\n  pi1: pi1.local\n",
        2,
        "hosts.pi1",
        ["expected fields"],
    ),
    "a host's name that cannot be a folder's": (
        "hosts:\n  Pi_1:\n    address: pi1.local\n",
        2,
        "hosts.Pi_1",
        ["a to z, 0 to 9 and -"],
    ),
    "one address and ssh port twice": (
        TWO_HOSTS.replace("pi2.local", "pi1.local") + "    server_port: 9090\n",
        4,
        "hosts.pi2",
        ["pi1.local port 22", "pi1"],
    ),
    "one address and server port twice": (
        TWO_HOSTS.replace("pi2.local", "pi1.local") + "    ssh_port: 2222\n",
        4,
        "hosts.pi2",
        ["pi1.local port 8080", "pi1"],
    ),
    "ports of several servers that overlap": (
        """\
defaults: {address: 127.0.0.1, servers_per_host: 3}
hosts:
  a: {ssh_port: 1001, server_port: 5000}
  b: {ssh_port: 1002, server_port: 5002}
""",
        4,
        "hosts.b",
        ["127.0.0.1 port 5002", "taken by a"],
    ),
    "ssh and a server on one port": (
        ONE_HOST + "    server_port: 22\n",
        2,
        "hosts.pi1",
        ["port 22"],
    ),
    "an unknown host in a group": (
        TWO_HOSTS + "groups:\n  some:\n    - pi1\n    - pl2\n",
        9,
        "groups.some",
        ["'pl2'", "did you mean 'pi2'?"],
    ),
    "a group with a host's name": (
        TWO_HOSTS + "groups:\n  pi1: [pi2]\n",
        7,
        "groups.pi1",
        ["a host has this name"],
    ),
    "a group that is no list": (
        TWO_HOSTS + "groups:\n  some: pi1\n",
        7,
        "groups.some",
        ["a list of hosts", "[pi1, pi2]"],
    ),
    "hosts without a host": ("known_hosts: x\nhosts:\n", 2, "hosts", ["no host"]),
    "an empty file": ("", 1, "hosts", ["no host"]),
    "hosts that are a list": ("hosts:\n  - pi1\n", 2, "hosts", ["expected fields"]),
    "a file that is a list": ("- pi1\n", 1, "file", ["expected fields"]),
    "a bracket that is not closed": (TWO_HOSTS + "groups: {some: [pi1\n", 7, "YAML", []),
    "a tab that indents": ("hosts:\n\tpi1:\n", 2, "YAML", [r"'\t'"]),
    "a colon too many": ("hosts:\n  pi1: address: x\n", 2, "YAML", ["not allowed here"]),
    "a control character": ("hosts:\n  pi1:\n    address: a\x07b\n", 3, "YAML", []),
    "a network namespace that is a number": (
        "network_namespace: 7\n" + ONE_HOST,
        1,
        "network_namespace",
        ["7", "a path"],
    ),
    "known_hosts that is a list": (
        "known_hosts: [a]\n" + ONE_HOST,
        1,
        "known_hosts",
        ["one value"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_file_line_and_field(
    load: Load, tmp_path: Path, mistake: str
) -> None:
    text, line, field, words = MISTAKES[mistake]
    with pytest.raises(InventoryError) as caught:
        load(text)
    told = str(caught.value)
    assert told.startswith(f"{tmp_path / 'shelf.yaml'}:{line}: {field}: ")
    for word in words:
        assert word in told
    assert len(told.splitlines()) == 1
    assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gate.example.org", Gateway(None, "gate.example.org", 22)),
        ("gate:2222", Gateway(None, "gate", 2222)),
        ("admin@gate", Gateway("admin", "gate", 22)),
        ("admin@10.0.0.9:65535", Gateway("admin", "10.0.0.9", 65535)),
    ],
)
def test_a_gateway_may_leave_out_user_and_port(load: Load, text: str, expected: Gateway) -> None:
    assert load(ONE_HOST + f"    gateway: {text}\n").hosts[0].gateway == expected


@pytest.mark.parametrize(
    "text",
    ["gate:ssh", "'@gate'", "a@b@c", "'gate:'", "two words", "gate:0", "gate:65536", "gate:99999"],
)
def test_another_form_of_gateway_is_a_mistake(load: Load, tmp_path: Path, text: str) -> None:
    where = re.escape(f"{tmp_path / 'shelf.yaml'}:4: hosts.pi1.gateway: ")
    with pytest.raises(InventoryError, match=where):
        load(ONE_HOST + f"    gateway: {text}\n")


def test_a_file_that_is_not_there_is_a_mistake_that_lists_the_others(load: Load) -> None:
    path = load(ONE_HOST).path
    with pytest.raises(UsageError, match=r"shelves\.yaml.*there is: shelf"):
        inventory.load(path.with_name("shelves.yaml"))


def test_a_file_that_is_no_text_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "shelf.yaml"
    path.write_bytes(b"hosts:\n  pi1:\n    address: caf\xe9\n")
    with pytest.raises(UsageError, match=re.escape(str(path))):
        inventory.load(path)


def test_a_host_has_the_defaults_but_for_what_it_says_itself(load: Load) -> None:
    cluster = load("defaults:\n  user: me\n  server_port: 9000\n" + TWO_HOSTS + "    user: you\n")
    first, second = cluster.hosts
    assert first == Host("pi1", "pi1.local", user="me", server_port=9000)
    assert second == Host("pi2", "pi2.local", user="you", server_port=9000)
    assert cluster.name == "shelf"


def test_hosts_keep_the_order_of_the_file(load: Load) -> None:
    text = "hosts:\n" + "".join(f"  {name}: {{address: {name}}}\n" for name in "zebra")
    assert [host.name for host in load(text).hosts] == list("zebra")


def test_paths_are_relative_to_the_file_or_to_the_home(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    cluster = load(
        "known_hosts: ../pins\n" + ONE_HOST + "    identity_file: ~/.ssh/id\n"
        "  pi2: {address: b, identity_file: keys/id}\n"
    )
    assert cluster.known_hosts == tmp_path.parent / "pins"
    assert cluster.hosts[0].identity_file == Path("/home/me/.ssh/id")
    assert cluster.hosts[1].identity_file == tmp_path / "keys/id"
    assert load(ONE_HOST).known_hosts == tmp_path / "shelf.known_hosts"
    assert load(ONE_HOST).network_namespace is None
    inner = load("network_namespace: run/operator\n" + ONE_HOST).network_namespace
    assert inner == tmp_path / "run" / "operator"


def test_the_digest_tells_one_file_from_another(load: Load) -> None:
    assert load(ONE_HOST).digest == load(ONE_HOST).digest
    assert load(ONE_HOST).digest != load(ONE_HOST + "# changed\n").digest


def test_cluster_and_hosts_are_frozen(load: Load) -> None:
    cluster = load(ONE_HOST)
    with pytest.raises(FrozenInstanceError):
        cluster.name = "other"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        cluster.hosts[0].address = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, ["pi1", "pi2", "pi3"]),
        ("pi2", ["pi2"]),
        ("pi3,pi1", ["pi1", "pi3"]),
        ("outer", ["pi1", "pi3"]),
        ("outer,pi2,pi2", ["pi1", "pi2", "pi3"]),
    ],
)
def test_limit_names_hosts_and_groups_and_keeps_their_order(
    load: Load, limit: str | None, expected: list[str]
) -> None:
    text = TWO_HOSTS + "  pi3:\n    address: pi3.local\ngroups:\n  outer: [pi3, pi1]\n"
    assert [host.name for host in load(text).limited(limit).hosts] == expected


@pytest.mark.parametrize(("limit", "words"), [("pi4", "pi"), ("", "''"), ("pi1,oter", "'outer'")])
def test_limit_to_what_is_not_there_is_a_mistake(load: Load, limit: str, words: str) -> None:
    cluster = load(TWO_HOSTS + "groups:\n  outer: [pi1]\n")
    with pytest.raises(UsageError, match=rf"--limit: .*{words}"):
        cluster.limited(limit)


def test_no_limit_leaves_a_cluster_without_hosts(load: Load) -> None:
    with pytest.raises(UsageError):
        load(ONE_HOST + "groups:\n  empty: []\n").limited("empty")


def test_servers_have_names_and_ports_of_their_own() -> None:
    host = Host("pi1", "a", server_port=9000, servers_per_host=3)
    assert host.process_names(1) == ["pi1"]
    assert host.process_names(3) == ["pi1.0", "pi1.1", "pi1.2"]
    assert host.process_names(0) == []
    assert list(host.server_ports) == [9000, 9001, 9002]


def test_the_inventories_that_come_along_are_right() -> None:
    names = ("pis.yaml", "lab.yaml", "netns.yaml")
    pis, lab, netns = (inventory.load(INVENTORY / name) for name in names)
    assert [host.name for host in pis.hosts] == [host.name for host in lab.hosts]
    assert {host.name: host.address for host in netns.hosts} == addresses(5)
    assert netns.network_namespace == INVENTORY.parent / ".rdht" / "netns" / "operator"
    assert [host.address for host in pis.hosts] == [f"pi{number}.local" for number in range(1, 6)]
    assert {host.address for host in lab.hosts} == {"127.0.0.1"}
    assert len({host.ssh_port for host in lab.hosts}) == len(lab.hosts)


def test_pis_yaml_documents_every_field() -> None:
    text = (INVENTORY / "pis.yaml").read_text(encoding="utf-8")
    of_cluster = {"known_hosts", "network_namespace", "hosts", "groups"}
    assert of_cluster <= {field.name for field in fields(Cluster)}
    for name in {field.name for field in fields(Host)} - {"name"} | of_cluster:
        assert re.search(rf"^[ #]*{name}:", text, re.MULTILINE), name


def test_pis_yaml_tells_the_defaults_that_there_are() -> None:
    document = yaml.safe_load((INVENTORY / "pis.yaml").read_text(encoding="utf-8"))
    own = {
        field.name: field.default
        for field in fields(Host)
        if field.default not in (MISSING, None)  # those without a default of the same type
    }
    assert {name: document["defaults"][name] for name in own} == own


def test_a_part_of_a_cluster_has_the_first_servers_and_clients_of_the_ring() -> None:
    hosts = tuple(Host(name, name, servers_per_host=2, clients_per_host=1) for name in "abc")
    cluster = Cluster("shelf", Path("shelf.yaml"), "0", Path("known"), hosts, {})
    assert cluster.sized(0, 0) == cluster
    part = cluster.sized(4, 2)
    assert [host.servers_per_host for host in part.hosts] == [2, 1, 1]
    assert [host.clients_per_host for host in part.hosts] == [1, 1, 0]
    for sizes, why in (
        ((7, 0), "--servers 7: .* has 1 to 6"),
        ((0, -1), "--clients -1: .* 1 to 3"),
    ):
        with pytest.raises(UsageError, match=why):
            cluster.sized(*sizes)
