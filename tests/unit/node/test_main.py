"""Calls on a host, by a process there: JSON in, one JSON document back for each."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rdht.node.__main__ import COMMANDS

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 20.0
Call = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def call(home: Path) -> Call:
    """Return a function that has a process carry out a step in the temporary home."""

    def run(
        command: str,
        arguments: dict[str, Any] | None = None,
        payload: bytes = b"",
        *,
        timeout_s: float | None = TIMEOUT_S,
        payload_bytes: int | None = None,
    ) -> "subprocess.CompletedProcess[bytes]":
        header: dict[str, Any] = {
            "modules": [],
            "command": command,
            "cluster": "shelf",
            "arguments": arguments or {},
            "timeout_s": timeout_s,
            "payload_bytes": len(payload) if payload_bytes is None else payload_bytes,
        }
        return subprocess.run(
            [sys.executable, "-m", "rdht.node"],
            input=json.dumps(header).encode() + b"\n" + payload,
            capture_output=True,
            cwd=ROOT,
            env={**os.environ, "HOME": str(home)},
            timeout=TIMEOUT_S,
            check=False,
        )

    return run


def answer(done: "subprocess.CompletedProcess[bytes]") -> dict[str, Any]:
    """Return the one document that a step that came to its end has printed."""
    assert done.stderr == b""
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()
    document = json.loads(line)
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_its_function(command: str) -> None:
    module, _, function = command.partition(".")
    assert callable(getattr(importlib.import_module(f"rdht.node.{module}"), function))


def test_a_step_answers_with_one_document(call: Call) -> None:
    document = answer(call("releases.probe"))
    assert set(document) == {"ok"}
    assert document["ok"]["staged"] == []


def test_an_unknown_step_is_an_error(call: Call) -> None:
    assert answer(call("releases.vanish")) == {"error": "there is no step releases.vanish"}


@pytest.mark.parametrize("command", ["host.write_json", "os.remove", "releases._prune", ""])
def test_only_the_steps_that_are_listed_can_be_called(call: Call, command: str) -> None:
    assert set(answer(call(command))) == {"error"}


def test_a_step_that_cannot_be_done_says_why(call: Call) -> None:
    document = answer(call("releases.flip", {"release": "abc", "previous": None}))
    assert document == {"error": "release abc is not on this host"}


def test_an_error_of_the_system_names_the_file(call: Call, home: Path) -> None:
    (home / "rdht").write_text("a file where a folder belongs", encoding="utf-8")
    document = answer(call("releases.stage", {"release": "abc", "files": {}}))
    assert "Not a directory" in document["error"]
    assert str(home / "rdht") in document["error"]


def test_the_payload_arrives_as_it_was_sent(
    call: Call, home: Path, make_bundle: Callable[[dict[str, bytes]], tuple[dict[str, str], bytes]]
) -> None:
    contents = {"rdht/all_bytes.py": bytes(range(256)) * 1000}
    files, bundle = make_bundle(contents)
    document = answer(call("releases.stage", {"release": "abc", "files": files}, bundle))
    assert document == {"ok": {"staged": "abc"}}
    arrived = home / "rdht" / "shelf" / "releases" / "abc" / "rdht" / "all_bytes.py"
    assert arrived.read_bytes() == contents["rdht/all_bytes.py"]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_payload_that_is_cut_is_an_error_in_a_document(
    call: Call,
    home: Path,
    make_bundle: Callable[[dict[str, bytes]], tuple[dict[str, str], bytes]],
    share: float,
) -> None:
    files, bundle = make_bundle({"rdht/x.py": os.urandom(5000)})
    done = call(
        "releases.stage",
        {"release": "abc", "files": files},
        bundle[: int(len(bundle) * share)],
        payload_bytes=len(bundle),
    )
    assert list((home / "rdht" / "shelf" / "releases").iterdir()) == []
    assert set(answer(done)) == {"error"}


def test_a_step_that_takes_too_long_is_ended_on_the_host(call: Call, home: Path) -> None:
    (home / "rdht" / "shelf" / "runs" / "r").mkdir(parents=True)
    arguments = {"run": "r", "lines": 1, "since": "", "follow": True}
    done = call("files.tail", arguments, timeout_s=0.5)
    *lines, last = done.stdout.splitlines()
    assert set(lines) == {b"{}"}
    assert json.loads(last) == {"error": "not done in time"}
