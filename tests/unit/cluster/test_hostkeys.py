"""The file of pinned host keys: what is asked of it, and that nothing else in it is lost."""

from pathlib import Path

import pytest
from paramiko.hostkeys import HostKeys

from cluster import hostkeys
from cluster.errors import ClusterError, HostKeyError
from cluster.hostkeys import HostKey

# Made by ssh-keygen; the fingerprint is what `ssh-keygen -lf` says of it.
KEY = HostKey("ssh-ed25519", "AAAAC3NzaC1lZDI1NTE5AAAAIAqVZsbYmb3FW0cdmFHLRjVBJyJZ2ZZqkMh6Ah2Z1gMV")
OTHER = HostKey(
    "ssh-ed25519", "AAAAC3NzaC1lZDI1NTE5AAAAIL0nPPL2C8JfXyRBq9oL8xvWkQyZ6U0eQkqQFGd5B3sT"
)


def line(hosts: str, key: HostKey) -> str:
    return f"{hosts} {key.kind} {key.base64}"


def test_a_host_on_another_port_has_that_in_its_name() -> None:
    assert hostkeys.name("pi1.local", 22) == "pi1.local"
    assert hostkeys.name("127.0.0.1", 2201) == "[127.0.0.1]:2201"


def test_what_is_pinned_is_found_again(tmp_path: Path) -> None:
    known_hosts = tmp_path / "made" / "known_hosts"
    hostkeys.pin(known_hosts, {"pi1": KEY, "[pi2]:2202": OTHER})
    assert hostkeys.pinned(known_hosts, "pi1") == [KEY]
    assert hostkeys.pinned(known_hosts, "[pi2]:2202") == [OTHER]
    assert hostkeys.pinned(known_hosts, "pi2") == []
    assert [path.name for path in known_hosts.parent.iterdir()] == ["known_hosts"]


def test_a_new_pin_takes_the_place_of_the_old_one_and_all_else_stays(tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    hashed = HostKeys.hash_host("pi1")
    kept = ["# a note about pi1", "", "@cert-authority pi1 what ever", line("pi9", OTHER)]
    known_hosts.write_text(
        "\n".join([*kept, line("pi1", OTHER), line(hashed, OTHER), line("pi1,pi2", OTHER)])
    )
    hostkeys.pin(known_hosts, {"pi1": KEY})
    lines = known_hosts.read_text(encoding="utf-8").splitlines()
    assert lines == [*kept, line("pi2", OTHER), line("pi1", KEY)]


def test_nothing_to_pin_makes_no_file(tmp_path: Path) -> None:
    hostkeys.pin(tmp_path / "known_hosts", {})
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text("pi1 ssh-ed25519 A\n")
    with pytest.raises(HostKeyError, match="known_hosts is no file of host keys"):
        hostkeys.pinned(known_hosts, "pi1")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ClusterError, match=r"cannot keep host keys in .*known_hosts"):
        hostkeys.pin(tmp_path / "file" / "known_hosts", {"pi1": KEY})
