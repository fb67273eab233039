"""fab tail as typed, while hosts of the netns lab lose their cable and their power."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lab import netns
from tests.e2e.checkout import Checkout
from tests.needs import NETNS

pytestmark = [
    NETNS,
    pytest.mark.parametrize("checkout", ["netns"], indirect=True, scope="session"),
]
RUN = "20261126-100000-netns-3fa9"
HOSTS = ["pi1", "pi2", "pi3"]


@pytest.fixture(scope="module")
def lab(checkout: Checkout) -> Iterator[Checkout]:
    """Three hosts with a log each, of a run that is known here."""
    checkout.fab("lab.up", "--kind", "netns", "--hosts", "3")
    folder = checkout.folder / "logs" / RUN
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"cluster": "netns"}), encoding="utf-8")
    for host in HOSTS:
        (checkout.home(host) / "runs" / RUN).mkdir(parents=True)
        _log(checkout, host, "begins")
    yield checkout
    checkout.fab("lab.down")


def _log(lab: Checkout, host: str, text: str) -> str:
    """Have a line reach a host's disk; return it."""
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    line = f"{moment} INFO server {host}: {text}"
    with (lab.home(host) / "runs" / RUN / "server.log").open("a", encoding="utf-8") as log:
        log.write(f"{line}\n")
    return line


def _wait_for(path: Path, *texts: str, within_s: float) -> str:
    deadline_s = time.monotonic() + within_s
    while not all(text in path.read_text(encoding="utf-8") for text in texts):
        assert time.monotonic() < deadline_s, path.read_text(encoding="utf-8")
        time.sleep(0.05)  # polling to the deadline
    return path.read_text(encoding="utf-8")


@contextmanager
def _following(lab: Checkout, shown: Path) -> Iterator["subprocess.Popen[str]"]:
    """Follow the logs into a file, no longer than the block."""
    words = ["tail", "--follow", "--run", RUN, "--grep", "server pi"]
    with shown.open("w", encoding="utf-8") as out, lab.start(*words, stdout=out) as process:
        try:
            yield process
        finally:
            process.kill()  # it would go on for ever


def test_no_line_is_lost_or_doubled_while_hosts_go_and_come(lab: Checkout, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    with _following(lab, shown) as process:
        _wait_for(shown, *(f"{host}: begins" for host in HOSTS), within_s=30)
        logged = [_log(lab, host, f"line {number}") for number in range(20) for host in HOSTS]
        _wait_for(shown, *logged, within_s=10)
        netns.cable(lab.lab, "pi2", plugged=False)
        netns.power_off(lab.lab, "pi3")
        logged += [_log(lab, host, f"cut {number}") for number in range(20) for host in HOSTS]
        _wait_for(shown, "pi2 is away: ", "pi3 is away: ", "pi1: cut 19", within_s=20)
        logged += [_log(lab, host, f"away {number}") for number in range(20) for host in HOSTS]
        netns.cable(lab.lab, "pi2", plugged=True)
        netns.power_on(lab.lab, "pi3")
        _wait_for(shown, "pi2 is back", "pi3 is back", *logged, within_s=30)
        logged += [_log(lab, host, f"back {number}") for number in range(20) for host in HOSTS]
        _wait_for(shown, *logged, within_s=10)
        logged.append(_log(lab, "pi1", "the last"))
        time.sleep(0.5)  # until it is here, but waits for the others' lines
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
    text = shown.read_text(encoding="utf-8")
    here = [line.split(maxsplit=2)[2] for line in text.splitlines() if "INFO server" in line]
    assert sorted(here[3:]) == sorted(logged)
    assert here[3:63] == logged[:60], "in the order of their times"
    assert [line for line in here if "back" in line] == [line for line in logged if "back" in line]
    for note in ("pi2 is away", "pi3 is away", "pi2 is back", "pi3 is back"):
        assert text.count(note) == 1
    assert "Traceback" not in text


def test_lines_are_chosen_by_their_age_and_their_text(lab: Checkout) -> None:
    with (lab.home("pi1") / "runs" / RUN / "server.log").open("a", encoding="utf-8") as log:
        log.write("2023-11-26T10:00:00.000000Z INFO server pi1: so old, in 2023\n")
    words = ["--lines", "1000", "--since", "600", "--grep", "in"]
    rows = lab.json("tail", "--run", RUN, *words)
    assert {row["line"].partition("server ")[2] for row in rows} >= {f"{h}: begins" for h in HOSTS}
    assert all("so old" not in row["line"] for row in rows)
