"""The clone, its lab, and edits to its inventory."""

import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from lab.links import Names
from tests.e2e.checkout import LEFT_OUT, ROOT, Checkout


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Checkout:
    """A copy of the working tree for one kind of lab, by default the loopback one."""
    folder = tmp_path_factory.mktemp("clone") / "rdht"
    shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
    made = Checkout(folder, getattr(request, "param", "lab"))
    if made.cluster == "lab":  # its hosts share this machine's ports
        text = made.inventory.read_text(encoding="utf-8")
        for port in re.findall(r"_port: (\d+)", text):
            text = text.replace(f"_port: {port}\n", f"_port: {_free_port()}\n")
        made.inventory.write_text(text, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def lab(checkout: Checkout) -> Iterator[Checkout]:
    """The checkout with its lab up and the code deployed; down again after the module."""
    kind = [] if checkout.cluster == "lab" else ["--kind", checkout.cluster]
    checkout.fab("lab.up", *kind, "deploy")
    yield checkout
    checkout.fab("lab.down")
    assert checkout.processes() == []
    assert not checkout.lab.exists()
    assert Names.of(checkout.lab).existing() == []


@pytest.fixture
def edited(checkout: Checkout) -> Iterator[Callable[[str, str], None]]:
    """Edit the inventory for one test: replace the first occurrence of a text."""
    before = checkout.inventory.read_text(encoding="utf-8")

    def edit(old: str, new: str) -> None:
        text = checkout.inventory.read_text(encoding="utf-8")
        assert old in text
        checkout.inventory.write_text(text.replace(old, new, 1), encoding="utf-8")

    yield edit
    checkout.inventory.write_text(before, encoding="utf-8")


@pytest.fixture
def idle(lab: Checkout) -> Iterator[Checkout]:
    """The lab with nothing running, as it came up and as each test leaves it."""
    yield lab
    lab.fab("stop")


# Of each worker of pytest its own: a port that is found free is only taken when a lab comes up.
_FIRST = 20_000 + 1_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = iter(range(_FIRST + os.getpid() % 10 * 60, _FIRST + 1_000, 2))


def _free_port() -> int:
    """Return a port that is free together with the next one.

    It is below those that the kernel gives to clients, which come and go.
    """
    for port in _PORTS:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):  # noqa: SIM117
            with socket.create_server(("127.0.0.1", port + 1)):
                return port
    pytest.fail("no port is free")
