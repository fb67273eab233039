"""The deploy lock: one desk at a time, and nothing that a killed one left needs a hand."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from cluster import deploy_lock, release
from cluster.errors import HostsFailedError
from cluster.release import Release
from rdht.node import releases
from rdht.node.host import NodeError, start_ticks
from tests.unit.cluster.shelf import BEFORE, Shelf, deploy

HOSTS = ["pi1", "pi2", "pi3"]
GONE = {"pid": 1, "start_ticks": -1}  # of a process that started at another time


def lock(shelf: Shelf, *hosts: str, **changed: Any) -> dict[str, Any]:
    """Leave a lock on hosts, of this process but for what is changed."""
    held = {**deploy_lock._make("deploy"), **changed}
    for host in hosts:
        base = shelf.folders(host).base
        base.mkdir(parents=True, exist_ok=True)
        (base / "deploy.lock").write_text(json.dumps(held), encoding="utf-8")
    return held


def of_another_desk(shelf: Shelf, *hosts: str) -> dict[str, Any]:
    elsewhere = {"who": "anna@kiosk", "desk": "kiosk", "boot_id": "another"}
    return lock(shelf, *hosts, **elsewhere, since="2026-11-26 19:04:11 UTC", pid=4711)


def test_a_deploy_holds_the_lock_until_each_host_has_flipped(
    shelf: Any, built: list[Release]
) -> None:
    held: list[Any] = []
    shelf.acts["stage", "pi2"] = lambda: held.extend(shelf.locks())
    shelf.acts["flip", "pi2"] = lambda: held.extend(shelf.locks())
    deploy(shelf, built[0])
    assert [lock and lock["pid"] for lock in held] == [os.getpid()] * 3 + [None] + [os.getpid()] * 2
    assert held[0]["who"] == deploy_lock.who()
    assert shelf.locks() == [None] * 3
    assert shelf.steps() == ["probe", "stage", "flip"], "the lock costs no call of its own"


def test_another_desks_lock_is_a_line_a_host_and_changes_nothing(
    shelf: Any, built: list[Release]
) -> None:
    deploy(shelf, built[0])
    shelf.calls.clear()
    held = of_another_desk(shelf, "pi2", "pi3")
    with pytest.raises(HostsFailedError) as caught:
        deploy(shelf, built[1])
    line, again, consequence = str(caught.value).splitlines()
    assert line == (
        "pi2: lock failed: anna@kiosk holds it (deploy, process 4711) since 2026-11-26 19:04:11"
        " UTC: wait until that has ended, or, if it never will, fab deploy --break-lock"
    )
    assert again.startswith("pi3: lock failed: anna@kiosk")
    assert "every host keeps its release" in consequence
    assert shelf.locks() == [None, held, held]
    assert shelf.steps() == ["probe", "unlock"]
    assert shelf.linked("current") == [built[0].name] * 3
    with pytest.raises(HostsFailedError, match="fab rollback --break-lock"):
        release.rollback(shelf, built[0].name + "x")


def test_an_unchanged_tree_asks_nobody_who_is_at_work(shelf: Any, built: list[Release]) -> None:
    deploy(shelf, built[0])
    shelf.calls.clear()
    held = of_another_desk(shelf, *HOSTS)
    deploy(shelf, built[0])
    assert shelf.calls == [("probe", host) for host in HOSTS]
    assert shelf.locks() == [held] * 3


def test_a_lock_can_be_broken_and_its_holder_changes_nothing_more(
    shelf: Any, built: list[Release]
) -> None:
    late: list[str] = []
    held = of_another_desk(shelf, "pi2")

    def come_late() -> None:
        for step, arguments in (
            (releases.stage, {"release": "other", "files": {}}),
            (releases.flip, {"release": None, "previous": None}),
        ):
            with pytest.raises(NodeError, match=r"was taken away meanwhile, .* holds it"):
                step(shelf.folders("pi2"), {**arguments, "lock": held["token"]}, b"")
            late.append(step.__name__)

    shelf.acts["flip", "pi1"] = come_late
    deploy(shelf, built[0], break_lock=True)
    assert late == ["stage", "flip"]
    assert shelf.linked("current") == [built[0].name] * 3
    assert shelf.locks() == [None] * 3
    (said,) = shelf.screen.said
    assert said.startswith("pi2: broke the lock of anna@kiosk (deploy since 2026")
    with pytest.raises(NodeError, match="nobody holds it now"):
        releases.flip(
            shelf.folders("pi2"), {"release": None, "previous": None, "lock": held["token"]}, b""
        )


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(GONE, id="its process is no more"),
        pytest.param({"boot_id": "before the reboot"}, id="the desk was rebooted"),
    ],
)
def test_what_a_killed_deploy_of_this_desk_left_is_taken_over(
    shelf: Any, built: list[Release], left: dict[str, Any]
) -> None:
    lock(shelf, "pi1", "pi3", **left)
    deploy(shelf, built[0])
    assert shelf.linked("current") == [built[0].name] * 3
    assert shelf.locks() == [None] * 3
    (said,) = shelf.screen.said
    assert said.startswith(f"pi1, pi3: took over the lock of {deploy_lock.who()} (deploy since ")
    assert said.endswith("its process is no more")


def test_what_was_left_here_is_no_reason_beside_another_desks_lock(
    shelf: Any, built: list[Release]
) -> None:
    left, held = lock(shelf, "pi1", **GONE), of_another_desk(shelf, "pi2")
    with pytest.raises(HostsFailedError) as caught:
        deploy(shelf, built[0])
    assert list(caught.value.failures) == ["pi2"]
    assert shelf.locks() == [left, held, None]


def test_a_lock_that_was_left_after_the_flip_is_let_go(shelf: Any, built: list[Release]) -> None:
    deploy(shelf, built[0])
    lock(shelf, "pi2", **GONE)
    assert set(deploy(shelf, built[0]).values()) == {"unchanged"}
    assert shelf.locks() == [None] * 3
    assert shelf.linked("current") == [built[0].name] * 3


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({**GONE, "pid_namespace": "pid:[1]"}, id="in a container beside this one"),
        pytest.param({"boot_id": "another", "desk": "another"}, id="on another machine"),
        pytest.param({"boot_id": "another", "desk": None}, id="on a machine without an id"),
    ],
)
def test_who_cannot_be_known_to_be_gone_keeps_the_lock(
    shelf: Any, built: list[Release], other: dict[str, Any]
) -> None:
    held = lock(shelf, "pi2", **other)
    with pytest.raises(HostsFailedError, match=r"^pi2: lock failed"):
        deploy(shelf, built[0])
    assert shelf.locks() == [None, held, None]


def test_a_deploy_of_this_desk_that_goes_on_keeps_the_lock(
    shelf: Any, built: list[Release]
) -> None:
    words = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(words) as other:
        lock(shelf, "pi2", pid=other.pid, start_ticks=start_ticks(other.pid))
        with pytest.raises(HostsFailedError, match=f"^pi2: lock failed: .*process {other.pid}"):
            deploy(shelf, built[0])
        other.kill()
        other.wait()
    deploy(shelf, built[0])
    assert shelf.locks() == [None] * 3


def test_a_machine_without_an_id_trusts_no_lock_of_another_boot(
    shelf: Any, built: list[Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy_lock, "_desk", lambda: None)
    lock(shelf, "pi2", boot_id="before the reboot")
    with pytest.raises(HostsFailedError, match=r"^pi2: lock failed"):
        deploy(shelf, built[0])


def test_what_this_process_could_not_let_go_is_in_no_ones_way(
    shelf: Any, built: list[Release]
) -> None:
    shelf.failing["stage", "pi2"] = BEFORE
    shelf.failing["unlock", "pi3"] = BEFORE
    with pytest.raises(HostsFailedError, match=r"^pi2: stage failed"):
        deploy(shelf, built[0])
    assert [lock is None for lock in shelf.locks()] == [True, True, False]
    assert shelf.screen.said == [f"pi3: its deploy lock stays: {BEFORE}"]
    shelf.screen.said.clear()
    deploy(shelf, built[0])
    assert shelf.screen.said == []
    assert shelf.locks() == [None] * 3


def test_the_other_desk_that_was_quicker_wins(shelf: Any, built: list[Release]) -> None:
    lock(shelf, "pi2", **GONE)
    shelf.acts["take over the lock", "pi2"] = lambda: of_another_desk(shelf, "pi2")
    with pytest.raises(HostsFailedError, match=r"^pi2: lock failed: anna@kiosk"):
        deploy(shelf, built[0])
    assert [lock and lock["who"] for lock in shelf.locks()] == [None, "anna@kiosk", None]


def test_a_lock_that_a_power_cut_has_torn_is_nobodys(shelf: Any, built: list[Release]) -> None:
    lock(shelf, "pi2")
    (shelf.folders("pi2").base / "deploy.lock").write_text('{"tok', encoding="utf-8")
    deploy(shelf, built[0])
    assert shelf.linked("current") == [built[0].name] * 3


@pytest.mark.parametrize("moment", ["stage", "flip"])
def test_an_interrupt_leaves_the_old_release_and_no_lock(
    shelf: Any, built: list[Release], moment: str
) -> None:
    deploy(shelf, built[0])

    def interrupt() -> None:
        raise KeyboardInterrupt

    shelf.acts[moment, "pi2"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        deploy(shelf, built[1])
    assert shelf.linked("current") == [built[0].name] * 3
    assert shelf.locks() == [None] * 3


def test_a_flip_is_not_taken_back_under_another_desk(shelf: Any, built: list[Release]) -> None:
    shelf.failing["flip", "pi2"] = BEFORE
    shelf.acts["flip back", "pi1"] = lambda: of_another_desk(shelf, "pi1")
    with pytest.raises(HostsFailedError, match="anna@kiosk holds it now") as caught:
        deploy(shelf, built[0])
    assert set(caught.value.failures) == {"pi1", "pi2"}
    assert shelf.linked("current") == [built[0].name, None, None]


def test_a_secret_alone_is_reason_enough_for_the_lock(shelf: Any, built: list[Release]) -> None:
    deploy(shelf, built[0])
    digest = "0" * 64
    wanted = {"current": built[0].name, "secret": digest}
    with deploy_lock.changing(shelf, "deploy", wanted, {}) as was:
        assert [lock is not None for lock in shelf.locks()] == [True] * 3
        release.deploy(shelf, built[0], was)
    assert shelf.locks() == [None] * 3
    assert shelf.linked("current") == [built[0].name] * 3
    assert shelf.linked("previous") == [None] * 3
