"""Inventory: a YAML file → a frozen Cluster; every mistake named with file, line and field.

The commented `inventory/pis.yaml` documents the fields.
"""

import difflib
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cluster.errors import InventoryError, UsageError

NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
MAX_PORT = 65_535
MAX_PER_HOST = 64
MAX_HOSTS = 128  # each has a thread of the operator's


class Gateway(NamedTuple):
    """A machine that ssh goes through."""

    user: str | None
    address: str
    port: int


@dataclass(frozen=True)
class Host:
    """One machine of the cluster."""

    name: str
    address: str
    ssh_port: int = 22
    user: str = "pi"
    identity_file: Path | None = None
    python: str = "python3"
    server_port: int = 8080
    servers_per_host: int = 1
    clients_per_host: int = 1
    gateway: Gateway | None = None

    def process_names(self, count: int) -> list[str]:
        """Return the names of this host's `count` servers, or clients."""
        return [self.name] if count == 1 else [f"{self.name}.{index}" for index in range(count)]

    @property
    def server_ports(self) -> range:
        """The ports of this host's servers."""
        return range(self.server_port, self.server_port + self.servers_per_host)


@dataclass(frozen=True)
class Cluster:
    """The hosts of one inventory file."""

    name: str
    path: Path
    digest: str
    known_hosts: Path
    hosts: tuple[Host, ...]
    groups: dict[str, tuple[str, ...]]
    network_namespace: Path | None = None

    def limited(self, limit: str | None) -> "Cluster":
        """Return the cluster with only the hosts and groups that `limit` names, comma-separated."""
        if limit is None:
            return self
        wanted: set[str] = set()
        for word in limit.split(","):
            known = {host.name: (host.name,) for host in self.hosts} | self.groups
            if word not in known:
                why = f"--limit: no host or group is named {word!r}{_suggest(word, known)}"
                raise UsageError(why)
            wanted.update(known[word])
        return replace(self, hosts=tuple(host for host in self.hosts if host.name in wanted))

    def sized(self, servers: int, clients: int) -> "Cluster":
        """Return the cluster with only the first so many servers and clients; 0 leaves all."""
        of_servers = _first([host.servers_per_host for host in self.hosts], servers, "servers")
        of_clients = _first([host.clients_per_host for host in self.hosts], clients, "clients")
        counted = zip(self.hosts, of_servers, of_clients, strict=True)
        hosts = (replace(host, servers_per_host=s, clients_per_host=c) for host, s, c in counted)
        return replace(self, hosts=tuple(hosts))


def _first(counts: list[int], wanted: int, what: str) -> list[int]:
    """Return how many of the first `wanted` stand on each host: they go round, as the ring does."""
    if not wanted:
        return counts
    places = sorted((number, at) for at, count in enumerate(counts) for number in range(count))
    if not 0 < wanted <= len(places):
        why = f"--{what} {wanted}: the inventory has 1 to {len(places)} {what}"
        raise UsageError(why)
    chosen = [at for _, at in places[:wanted]]
    return [chosen.count(at) for at in range(len(counts))]


class _Reader:
    """The fields of one YAML mapping, each with its line."""

    def __init__(
        self, path: Path, node: yaml.Node | None, where: str, allowed: Iterable[str]
    ) -> None:
        self.path = path
        self.where = where
        self.line = node.start_mark.line + 1 if node else 1
        self.values: dict[str, yaml.Node] = {}
        self.lines: dict[str, int] = {}
        if node is None or (isinstance(node, yaml.ScalarNode) and node.value in ("", "~", "null")):
            return
        if not isinstance(node, yaml.MappingNode):
            raise InventoryError(path, self.line, where or "file", "expected fields, one a line")
        names = set(allowed)
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if names and name not in names:
                why = f"no such field{_suggest(name, names)}; there are {', '.join(sorted(names))}"
                raise InventoryError(path, line, self.field(name), why)
            if name in self.values:
                why = f"stands here again, first in line {self.lines[name]}; names must differ"
                raise InventoryError(path, line, self.field(name), why)
            self.values[name], self.lines[name] = value, line

    def field(self, name: str) -> str:
        return f"{self.where}.{name}" if self.where else name

    def fail(self, name: str, why: str) -> InventoryError:
        return InventoryError(self.path, self.lines.get(name, self.line), self.field(name), why)

    def scalar(self, name: str, expected: str) -> Any:
        node = self.values[name]
        try:
            value = yaml.SafeLoader("").construct_document(node)
        except (yaml.YAMLError, ValueError) as error:
            raise self.fail(name, f"{node.value!r} is not {expected}") from error
        if value is None or not isinstance(node, yaml.ScalarNode):
            raise self.fail(name, f"expected one value: {expected}")
        return value

    def text(self, name: str, pattern: str, expected: str) -> str:
        value = self.scalar(name, expected)
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise self.fail(name, f"{value!r} is not {expected}")
        return value

    def number(self, name: str, low: int, high: int) -> int:
        expected = f"a number from {low} to {high}"
        value = self.scalar(name, expected)
        if type(value) is not int or not low <= value <= high:
            raise self.fail(name, f"{value!r} is not {expected}")
        return value


def load(path: Path) -> Cluster:
    """Read an inventory file; InventoryError for the first mistake in it."""
    if not path.is_file():
        others = ", ".join(sorted(other.stem for other in path.parent.glob("*.yaml"))) or "none"
        why = f"there is no inventory {path}; there is: {others}"
        raise UsageError(why)
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text)
    except UnicodeDecodeError as error:
        raise InventoryError(path, 1, "file", f"is no UTF-8 text: {error.reason}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InventoryError(
            path, line, "YAML", f"holds a character that cannot be: {error.reason}"
        ) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InventoryError(path, line, "YAML", str(error.problem)) from error
    top = _Reader(path, root, "", _FIELDS)
    defaults = _host_fields(_Reader(path, top.values.get("defaults"), "defaults", _HOST_FIELDS))
    hosts_reader = _Reader(path, top.values.get("hosts"), "hosts", [])
    hosts = tuple(_host(hosts_reader, name, defaults) for name in hosts_reader.values)
    if not hosts:
        raise InventoryError(path, hosts_reader.line, "hosts", "names no host")
    if len(hosts) > MAX_HOSTS:
        why = f"names {len(hosts)} hosts, and no more than {MAX_HOSTS} can be"
        raise InventoryError(path, hosts_reader.line, "hosts", why)
    _check_ports(hosts_reader, hosts)
    known_hosts = path.with_suffix(".known_hosts")
    if "known_hosts" in top.values:
        known_hosts = _path(top, "known_hosts")
    namespace = _path(top, "network_namespace") if "network_namespace" in top.values else None
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    groups = _groups(path, top, hosts)
    return Cluster(path.stem, path, digest, known_hosts, hosts, groups, namespace)


_FIELDS = ["known_hosts", "network_namespace", "defaults", "hosts", "groups"]
_HOST_FIELDS = [field.name for field in fields(Host) if field.name != "name"]


def _host_fields(reader: _Reader) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in reader.values:
        match name:
            case "address":
                values[name] = reader.text(name, r"[A-Za-z0-9.:_-]+", "a host name or IP address")
            case "ssh_port" | "server_port":
                values[name] = reader.number(name, 1, MAX_PORT)
            case "servers_per_host" | "clients_per_host":
                values[name] = reader.number(name, 0, MAX_PER_HOST)
            case "user":
                values[name] = reader.text(name, r"[a-z_][a-z0-9_-]*", "a user name")
            case "python":
                values[name] = reader.text(name, r"[A-Za-z0-9_./-]+", "a program's name or path")
            case "identity_file":
                values[name] = _path(reader, name)
            case "gateway":
                values[name] = _gateway(reader)
    return values


def _path(reader: _Reader, name: str) -> Path:
    """Return a path that an inventory names relative to itself."""
    text = reader.text(name, r"\S+", "a path")
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise reader.fail(name, f"{text!r} is in the home of a user who is not here") from error
    return Path(os.path.normpath(reader.path.parent / path))


def _gateway(reader: _Reader) -> Gateway:
    text = reader.text(
        "gateway",
        r"([a-z_][a-z0-9_-]*@)?[A-Za-z0-9.-]+(:\d{1,5})?",
        "a gateway: user@address:port, where user@ and :port may be left out",
    )
    user, _, place = text.rpartition("@")
    address, _, port = place.partition(":")
    if port and not 1 <= int(port) <= MAX_PORT:
        raise reader.fail("gateway", f"port {port} is not a number from 1 to {MAX_PORT}")
    return Gateway(user or None, address, int(port or 22))


def _host(hosts: _Reader, name: str, defaults: dict[str, Any]) -> Host:
    if not NAME.fullmatch(name):
        raise hosts.fail(name, "a host's name has only a to z, 0 to 9 and -")
    reader = _Reader(hosts.path, hosts.values[name], hosts.field(name), _HOST_FIELDS)
    values = {**defaults, **_host_fields(reader)}
    if "address" not in values:
        raise hosts.fail(name, "has no address; add one, such as address: pi1.local")
    host = Host(name=name, **values)
    if host.server_ports and host.server_ports[-1] > MAX_PORT:
        raise hosts.fail(name, f"server_port {host.server_port} leaves no room for its servers")
    return host


def _check_ports(hosts: _Reader, all_hosts: tuple[Host, ...]) -> None:
    taken: dict[tuple[str, int], str] = {}
    for host in all_hosts:
        for port in (host.ssh_port, *host.server_ports):
            other = taken.setdefault((host.address, port), host.name)
            if other != host.name or (port == host.ssh_port and port in host.server_ports):
                why = f"{host.address} port {port} is taken by {other}; give each its own"
                raise hosts.fail(host.name, why)


def _groups(path: Path, top: _Reader, hosts: tuple[Host, ...]) -> dict[str, tuple[str, ...]]:
    reader = _Reader(path, top.values.get("groups"), "groups", [])
    names = [host.name for host in hosts]
    groups = {}
    for name, node in reader.values.items():
        if name in names:
            raise reader.fail(name, "a host has this name already")
        if not isinstance(node, yaml.SequenceNode):
            raise reader.fail(name, "expected a list of hosts, such as [pi1, pi2]")
        if not node.value:
            raise reader.fail(name, "names no host")
        for member in node.value:
            if member.value not in names:
                line = member.start_mark.line + 1
                why = f"no host is named {member.value!r}{_suggest(str(member.value), names)}"
                raise InventoryError(path, line, reader.field(name), why)
        groups[name] = tuple(member.value for member in node.value)
    return groups


def _suggest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""
