"""Two lab hosts with ports of their own, and an inventory for them."""

import socket
from collections.abc import Iterator

import pytest

from cluster.connection import Connection
from lab import loopback
from tests.cluster.two_hosts import Lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    root = tmp_path_factory.mktemp("hosts")
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = {"pi1": one.getsockname()[1], "pi2": two.getsockname()[1]}
    rows = [
        f"  {name}:\n    ssh_port: {port}\n    server_port: {1000 + number}\n"
        for number, (name, port) in enumerate(ports.items())
    ]
    path = root / "here.yaml"
    path.write_text(
        "known_hosts: lab/known_hosts\n"
        "defaults:\n  address: 127.0.0.1\n  identity_file: lab/id_ed25519\n"
        "hosts:\n" + "".join(rows),
        encoding="utf-8",
    )
    made = Lab(root / "lab", path, ports)
    assert loopback.up(made.folder, ports)
    yield made
    assert loopback.down(made.folder)


@pytest.fixture
def pi1(lab: Lab) -> Iterator[Connection]:
    connection = lab.connection("pi1")
    yield connection
    connection.close()
