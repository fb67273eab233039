"""The secret on a host: put in place whole, for nobody else to read, and only as was expected."""

import hashlib
import os
from pathlib import Path

import pytest

from rdht.authentication import make_secret, read_secret
from rdht.node import secret
from rdht.node.host import Folders, NodeError, secret_digest


def put(folders: Folders, text: str, replaces: str | None = None) -> None:
    assert secret.put(folders, {"secret": text, "replaces": replaces}, b"") == {}


def files(folders: Folders) -> list[str]:
    return [path.name for path in folders.base.iterdir()]


def test_a_new_host_has_none(folders: Folders) -> None:
    assert secret_digest(folders) is None


def test_what_was_put_is_what_the_hosts_processes_read(folders: Folders) -> None:
    text = make_secret()
    before = os.umask(0)
    try:
        put(folders, text)
    finally:
        os.umask(before)
    assert read_secret(folders.secret) == bytes.fromhex(text)
    assert folders.secret.stat().st_mode & 0o777 == 0o600
    assert secret_digest(folders) == hashlib.sha256(text.encode()).hexdigest()
    assert files(folders) == ["secret"]


def test_one_is_replaced_only_by_who_knows_which_it_is(folders: Folders) -> None:
    first, second = make_secret(), make_secret()
    put(folders, first)
    for wrong in (None, "unusable", hashlib.sha256(second.encode()).hexdigest()):
        with pytest.raises(NodeError, match="has just changed") as caught:
            put(folders, second, wrong)
        assert second.strip() not in str(caught.value)
    assert folders.secret.read_text(encoding="ascii") == first
    put(folders, second, secret_digest(folders))
    assert folders.secret.read_text(encoding="ascii") == second


def test_one_that_others_can_read_is_none_to_be_used(folders: Folders) -> None:
    put(folders, make_secret())
    folders.secret.chmod(0o640)
    assert secret_digest(folders) == "unusable"
    put(folders, make_secret(), "unusable")
    assert folders.secret.stat().st_mode & 0o777 == 0o600


def test_a_link_is_not_followed_and_gives_way(folders: Folders, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious", encoding="utf-8")
    folders.base.mkdir(parents=True)
    folders.secret.symlink_to(elsewhere)
    assert secret_digest(folders) == "unusable"
    put(folders, make_secret(), "unusable")
    assert not folders.secret.is_symlink()
    assert elsewhere.read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_host_that_fails_keeps_the_old_one_and_no_half_of_the_new(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    first = make_secret()
    put(folders, first)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    digest = secret_digest(folders)
    with monkeypatch.context() as patched:
        patched.setattr(step, fail)
        with pytest.raises(OSError, match="No space"):
            put(folders, make_secret(), digest)
    assert folders.secret.read_text(encoding="ascii") == first
    assert files(folders) == ["secret"]
