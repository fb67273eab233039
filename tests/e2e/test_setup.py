"""The README's way to five new Pis, typed word by word: hosts that know nothing but a password."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import netns
from lab.host_files import USER_ID, make_key
from tests.e2e.checkout import Checkout
from tests.needs import NETNS

pytestmark = [
    NETNS,
    pytest.mark.parametrize("checkout", ["netns"], indirect=True, scope="session"),
]
HOSTS = [f"pi{number}" for number in range(1, 6)]
PASSWORD = "raspberry"
# What `openssl passwd -6` makes of it.
HASH = (
    "$6$rdhtsalt$eOJr18iiPtXkKlBVxIsHKxULGYVgpjrMvRzf7MB5SM7fvRRpOXTJSjlSV9ai7HdRj"
    ".f4D8/4QSQUCxwM0m53x0"
)
FINGERPRINT = r"SHA256:[A-Za-z0-9+/]{43}"


def _forget_everything(host: Path) -> None:
    """Make a host as the Raspberry Pi Imager does: one user with a password, and no key of ours."""
    shutil.rmtree(host / "home")
    (host / "home").mkdir(mode=0o755)
    shutil.chown(host / "home", USER_ID, USER_ID)
    shadow = host / "etc" / "shadow"
    shadow.write_text(shadow.read_text().replace("pi:*:", f"pi:{HASH}:"))
    config = host / "etc" / "ssh" / "sshd_config"
    config.write_text(config.read_text().replace("PasswordAuthentication no", "", 1))


def _renew_key(checkout: Checkout, host: str) -> None:
    netns.power_off(checkout.lab, host)
    for path in (checkout.lab / host / "etc" / "ssh").glob("ssh_host_*"):
        path.unlink()
    make_key(checkout.lab / host / "etc" / "ssh" / "ssh_host_ed25519_key", host)
    netns.power_on(checkout.lab, host)


@pytest.fixture(scope="module")
def pis(checkout: Checkout) -> Iterator[Checkout]:
    """Five new hosts with OpenSSH, to which inventory/pis.yaml leads."""
    checkout.fab("lab.up", "--kind", "netns")
    for name in HOSTS:
        netns.power_off(checkout.lab, name)
        _forget_everything(checkout.lab / name)
        netns.power_on(checkout.lab, name)
    path = checkout.folder / "inventory" / "pis.yaml"
    before = text = path.read_text(encoding="utf-8")
    for name, address in netns.addresses(5).items():
        text = text.replace(f"address: {name}.local", f"address: {address}")
    path.write_text(f"{text}\nnetwork_namespace: ../.rdht/netns/operator\n", encoding="utf-8")
    yield checkout
    checkout.fab("lab.down")
    path.write_text(before, encoding="utf-8")


@pytest.fixture
def with_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let setup be told the password, and find no key of this machine's user."""
    monkeypatch.setenv("RDHT_PASSWORD", PASSWORD)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.mark.usefixtures("with_password")
def test_from_a_password_to_the_first_result(
    pis: Checkout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refused = pis.fab("check", cluster="pis", code=1).stderr
    assert re.findall(r"^(pi\d): .*fab setup", refused, re.MULTILINE) == HOSTS
    shown = pis.fab("use", "pis", "setup", "--yes", cluster="pis").stdout
    assert len(set(re.findall(FINGERPRINT, shown))) == 5
    for name in HOSTS:
        assert re.search(rf"^ *{name} +pinned +brought +made +brought *$", shown, re.MULTILINE)
    assert PASSWORD not in shown
    monkeypatch.delenv("RDHT_PASSWORD")
    again = pis.fab("setup", cluster="pis").stdout
    assert "nothing was changed" in again
    assert "All hosts are fit." in pis.fab("check", cluster="pis").stdout
    assert "commands/s" in pis.fab("run", "--duration", "1", cluster="pis").stdout
    assert list(tmp_path.iterdir()) == []  # nothing of the user's own was touched
    kept = [
        path
        for folder in (pis.folder / ".rdht" / "pis", pis.folder / "logs", pis.folder / "inventory")
        for path in folder.rglob("*")
        if path.is_file() and PASSWORD.encode() in path.read_bytes()
    ]
    assert kept == []


@pytest.mark.usefixtures("with_password")
def test_hosts_that_were_rebooted_are_others_of_the_same_name(pis: Checkout) -> None:
    pis.fab("setup", "--yes", cluster="pis")
    before = [(pis.lab / name / "boot_id").read_text() for name in HOSTS]
    shown = pis.fab("reboot", cluster="pis").stdout
    assert len(re.findall(r"^ *pi\d +\d+\.\d *$", shown, re.MULTILINE)) == 5
    after = [(pis.lab / name / "boot_id").read_text() for name in HOSTS]
    assert not set(before) & set(after)


@pytest.mark.usefixtures("with_password")
def test_a_host_that_does_not_come_back_is_named(pis: Checkout) -> None:
    pis.fab("setup", "--yes", cluster="pis")
    (pis.lab / "pi4" / "bin" / "reboot").write_text("#!/bin/sh\n")
    try:
        error = pis.fab("reboot", "--wait", "8", "--limit", "pi3,pi4", cluster="pis", code=1).stderr
    finally:
        (pis.lab / "pi4" / "bin" / "reboot").write_text("#!/bin/sh\nkill -s INT 1\n")
    assert error.strip() == (
        "pi4: reboot failed: not back after 8 s: it still answers as the same boot"
    )


@pytest.mark.usefixtures("with_password")
def test_somebody_in_between_gets_nothing(pis: Checkout) -> None:
    pis.fab("setup", "--yes", cluster="pis")
    _renew_key(pis, "pi2")
    (pis.lab / "pi2" / "home" / "rdht" / "pis" / "secret").unlink()
    console = pis.lab / "pi2" / "console.log"
    heard = console.stat().st_size
    for words in (["deploy"], ["setup", "--yes"], ["trust", "--yes"], ["check"]):
        seen = pis.fab(*words, cluster="pis", code=1)
        line = seen.stderr.splitlines()[0]
        assert re.match("pi2: .*host key has changed.*fab trust --replace --limit pi2", line)
        assert len(seen.stderr.splitlines()) == (2 if words == ["deploy"] else 1)
        assert len(set(re.findall(FINGERPRINT, seen.shown))) >= 2
    assert not (pis.lab / "pi2" / "home" / "rdht" / "pis" / "secret").exists()
    assert b"Accepted" not in console.read_bytes()[heard:]
    shown = pis.fab("trust", "--replace", "--yes", "--limit", "pi2", cluster="pis").stdout
    assert len(re.findall(FINGERPRINT, shown)) == 2
    pis.fab("setup", cluster="pis")
    assert (pis.lab / "pi2" / "home" / "rdht" / "pis" / "secret").exists()


@pytest.mark.usefixtures("with_password")
def test_a_wrong_password_is_a_line_a_host(pis: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    pis.fab("setup", "--yes", cluster="pis")
    (pis.lab / "pi5" / "home" / ".ssh" / "authorized_keys").write_text("# somebody's note\n")
    monkeypatch.setenv("RDHT_PASSWORD", "wrong")
    error = pis.fab("setup", cluster="pis", code=1).stderr
    assert error.strip() == (
        "pi5: bring your key failed: ssh login as pi at 10.77.0.15:22 was refused with the password"
    )
    monkeypatch.delenv("RDHT_PASSWORD")
    error = pis.fab("setup", cluster="pis", code=2).stderr
    assert "RDHT_PASSWORD" in error
    monkeypatch.setenv("RDHT_PASSWORD", PASSWORD)
    pis.fab("setup", cluster="pis")
    keys = (pis.lab / "pi5" / "home" / ".ssh" / "authorized_keys").read_text().splitlines()
    assert keys[0] == "# somebody's note"
    assert len(keys) == 2
