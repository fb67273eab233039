"""Releases: the bundle, and a deploy that reaches all hosts or none."""

import io
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster import release
from cluster.errors import ClusterError, HostsFailedError
from cluster.release import DEPLOYED, UNCHANGED, Release
from rdht.node import releases
from tests.unit.cluster.shelf import AFTER, BEFORE, SOURCES, deploy


def test_the_same_tree_gives_the_same_name_and_the_same_bytes(tree: Callable[..., Path]) -> None:
    first, second = release.build(tree()), release.build(tree())
    assert first == second
    assert len(first.name) == 12


def test_times_modes_and_the_order_of_files_change_nothing(tree: Callable[..., Path]) -> None:
    first, other = tree(), tree(reverse=True)
    rng = random.Random(1)
    for path in other.rglob("*"):
        os.utime(path, (rng.randrange(10**9), rng.randrange(10**9)))
        path.chmod(0o700)
    assert release.build(first) == release.build(other)


def test_a_bundle_does_not_tell_when_it_was_made(
    tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree()
    bundles = set()
    for moment_s in (1e9, 2e9):
        monkeypatch.setattr("time.time", lambda moment_s=moment_s: moment_s)
        bundles.add(release.build(root).bundle)
    assert len(bundles) == 1


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({**SOURCES, "rdht/ring.py": "RING = 2\n"}, id="one byte"),
        pytest.param({**SOURCES, "rdht/new.py": ""}, id="one file more"),
        pytest.param({"rdht/__init__.py": "", "rdht/ring.py": "RING = 1\n"}, id="one file less"),
        pytest.param(
            {("rdht/rang.py" if "ring" in name else name): text for name, text in SOURCES.items()},
            id="another file name",
        ),
    ],
)
def test_a_change_of_the_node_side_changes_the_name(
    tree: Callable[..., Path], changed: dict[str, str]
) -> None:
    assert release.build(tree()).name != release.build(tree(changed)).name


def test_only_the_sources_of_the_node_side_count(tree: Callable[..., Path]) -> None:
    more = {**SOURCES, "cluster/x.py": "", "rdht/__pycache__/x.pyc": "x", "rdht/notes.txt": "x"}
    assert release.build(tree()) == release.build(tree(more))


def test_the_bundle_holds_the_files_and_nothing_of_who_made_it(tree: Callable[..., Path]) -> None:
    built = release.build(tree())
    with tarfile.open(fileobj=io.BytesIO(built.bundle), mode="r:gz") as archive:
        members = archive.getmembers()
        contents = {
            member.name: archive.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in members
        }
    assert contents == SOURCES
    assert set(contents) == set(built.files)
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")


def test_a_release_becomes_current_everywhere(shelf: Any, built: list[Release]) -> None:
    outcome = deploy(shelf, built[0])
    assert outcome == dict.fromkeys(["pi1", "pi2", "pi3"], DEPLOYED)
    assert shelf.linked("current") == [built[0].name] * 3
    assert shelf.steps() == ["probe", "stage", "flip"]


def test_a_second_deploy_of_the_same_costs_one_call_a_host(
    shelf: Any, built: list[Release]
) -> None:
    deploy(shelf, built[0])
    shelf.calls.clear()
    assert set(deploy(shelf, built[0]).values()) == {UNCHANGED}
    assert shelf.calls == [("probe", "pi1"), ("probe", "pi2"), ("probe", "pi3")]


def test_only_hosts_that_lack_a_release_get_it(shelf: Any, built: list[Release]) -> None:
    for each in built[:2]:
        deploy(shelf, each)
    releases.flip(shelf.folders("pi2"), {"release": built[0].name, "previous": None}, b"")
    shelf.calls.clear()
    assert deploy(shelf, built[1]) == {
        "pi1": UNCHANGED,
        "pi2": DEPLOYED,
        "pi3": UNCHANGED,
    }
    assert [call for call in shelf.calls if call[0] != "probe"] == [("flip", "pi2")]
    assert shelf.locks() == [None] * 3


@pytest.mark.parametrize("step", ["probe", "stage"])
def test_a_host_that_fails_before_the_flip_leaves_all_as_they_are(
    shelf: Any, built: list[Release], step: str
) -> None:
    deploy(shelf, built[0])
    shelf.steps()
    shelf.failing[step, "pi2"] = BEFORE
    with pytest.raises(HostsFailedError, match=f"^pi2: {step} failed: ") as caught:
        deploy(shelf, built[1])
    assert set(caught.value.failures) == {"pi2"}
    assert "every host keeps its" in str(caught.value)
    assert "flip" not in shelf.steps()
    assert shelf.locks() == [None] * 3
    assert shelf.linked("current") == [built[0].name] * 3
    deploy(shelf, built[1])
    assert shelf.linked("current") == [built[1].name] * 3


@pytest.mark.parametrize("when", [BEFORE, AFTER])
def test_a_flip_that_fails_on_one_host_is_taken_back_on_all(
    shelf: Any, built: list[Release], when: str
) -> None:
    deploy(shelf, built[0])
    shelf.failing["flip", "pi2"] = when
    with pytest.raises(HostsFailedError, match=r"^pi2: flip failed: ") as caught:
        deploy(shelf, built[1])
    assert "old release again" in str(caught.value)
    assert shelf.linked("current") == [built[0].name] * 3
    assert shelf.locks() == [None] * 3


def test_a_first_deploy_that_fails_leaves_no_current_release(
    shelf: Any, built: list[Release]
) -> None:
    shelf.failing["flip", "pi3"] = BEFORE
    with pytest.raises(HostsFailedError):
        deploy(shelf, built[0])
    assert shelf.linked("current") == [None] * 3


def test_a_flip_that_was_taken_back_leaves_the_same_release_to_roll_back_to(
    shelf: Any, built: list[Release]
) -> None:
    for each in built[:2]:
        deploy(shelf, each)
    shelf.failing["flip", "pi2"] = BEFORE
    with pytest.raises(HostsFailedError):
        deploy(shelf, built[2])
    assert shelf.linked("previous") == [built[0].name] * 3


def test_a_host_that_cannot_be_flipped_back_is_told_too(shelf: Any, built: list[Release]) -> None:
    deploy(shelf, built[0])
    shelf.failing["flip", "pi2"] = BEFORE
    shelf.failing["flip back", "pi3"] = BEFORE
    with pytest.raises(HostsFailedError) as caught:
        deploy(shelf, built[1])
    assert {"pi2", "pi3"} <= set(caught.value.failures)
    assert shelf.linked("current")[0] == built[0].name


def test_rollback_goes_to_the_release_before(shelf: Any, built: list[Release]) -> None:
    for each in built[:2]:
        deploy(shelf, each)
    assert release.rollback(shelf, None) == built[0].name
    assert shelf.linked("current") == [built[0].name] * 3


def test_rollback_goes_to_the_release_that_is_named(shelf: Any, built: list[Release]) -> None:
    for each in built:
        deploy(shelf, each)
    assert release.rollback(shelf, built[0].name) == built[0].name
    assert shelf.linked("current") == [built[0].name] * 3


def test_rollback_is_refused_where_there_is_nothing_before(
    shelf: Any, built: list[Release]
) -> None:
    deploy(shelf, built[0])
    with pytest.raises(ClusterError, match="--to"):
        release.rollback(shelf, None)
    assert shelf.linked("current") == [built[0].name] * 3
    assert shelf.locks() == [None] * 3


def test_rollback_never_goes_to_a_fault_build(
    shelf: Any, built: list[Release], tree: Callable[..., Path]
) -> None:
    root = tree({**SOURCES, "faultbuild/sitecustomize.py": "", "faultbuild/chosen.py": ""})
    deploy(shelf, release.build_fault(root))
    deploy(shelf, built[0])
    with pytest.raises(ClusterError, match="is a fault build, made to break: name another"):
        release.rollback(shelf, None)
    assert shelf.linked("current") == [built[0].name] * 3
    assert shelf.locks() == [None] * 3


def test_rollback_is_refused_where_the_hosts_do_not_agree(shelf: Any, built: list[Release]) -> None:
    for each in built[:2]:
        deploy(shelf, each)
    folders = shelf.folders("pi2")
    releases.stage(folders, {"release": built[2].name, "files": built[2].files}, built[2].bundle)
    releases.flip(folders, {"release": built[2].name, "previous": None}, b"")
    with pytest.raises(ClusterError, match="--to"):
        release.rollback(shelf, None)


def test_rollback_to_what_one_host_lacks_changes_nothing(shelf: Any, built: list[Release]) -> None:
    deploy(shelf, built[0])
    folders = shelf.folders("pi2")
    releases.stage(folders, {"release": built[1].name, "files": built[1].files}, built[1].bundle)
    with pytest.raises(ClusterError, match="pi1, pi3") as caught:
        release.rollback(shelf, built[1].name)
    assert built[1].name in str(caught.value)
    assert shelf.linked("current") == [built[0].name] * 3
