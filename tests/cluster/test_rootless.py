"""The netns lab of a user who is not root."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import USER_NAMESPACES

ROOT = Path(__file__).parents[2]
USER = 60_001

# What `fab lab.up` and its like do, and what a user sees of the hosts.
SCRIPT = """if True:
    import json, os, subprocess, sys
    from pathlib import Path
    from cluster import namespace
    from cluster.errors import ClusterError
    from lab import faults, holder, netns, processes

    folder = Path(sys.argv[1])
    ssh = [
        *("ssh", "-F", "none", "-i", folder / "id_ed25519"),
        *("-o", f"UserKnownHostsFile={folder / 'known_hosts'}", "-o", "StrictHostKeyChecking=yes"),
    ]

    def on(host, command):
        done = subprocess.run([*ssh, f"pi@{hosts[host]}", command], capture_output=True, text=True)
        return done.stdout.split() or done.stderr

    def as_root():
        namespace.join(holder.find(folder))
        with namespace.inside(folder / "operator"):
            yield "who", on("pi1", "id -un; hostname; pwd; stat -c %U .ssh")
            boot = on("pi2", "cat /proc/sys/kernel/random/boot_id")
            yield "sudo", on("pi2", "sudo -n --list reboot && sudo -n cat /etc/shadow")
            faults.begin(folder, "pi2", {"kind": "power", "text": "off", "for_s": 600})
            yield "powered", netns.status(folder)["hosts"]["pi2"]["power"]
            yield "left", faults.heal(folder, "pi2")["left"]
            yield "booted anew", on("pi2", "cat /proc/sys/kernel/random/boot_id") != boot
        yield "down", netns.down(folder)
        try:
            namespace.inside(None).__enter__()
        except ClusterError as error:
            yield "another cluster", str(error).split(":")[0]

    def in_child(act):
        "Give what a process of its own finds: one that has joined cannot leave."
        reader, writer = os.pipe()
        if not os.fork():
            os.write(writer, json.dumps(dict(act())).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as told:
            return json.loads(told.read())

    def up():
        namespace.join(holder.start(folder))
        yield "up", netns.up(folder, hosts)

    hosts = netns.addresses(2)
    found = in_child(up)
    found["linked"] = os.readlink(folder / "operator").startswith("/proc/")
    found |= in_child(as_root)
    holder.finish(folder)
    found["files"] = folder.exists()
    found["keeper"] = holder.find(folder)
    found["processes"] = []
    for entry in processes.everyone():
        try:
            if str(folder) in (entry / "cmdline").read_text():
                found["processes"].append(entry.name)
        except OSError:
            pass
    found["processes"].remove(str(os.getpid()))
    print(json.dumps(found))
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of that user, who may not reach pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@USER_NAMESPACES
def test_a_user_without_root_has_hosts_with_real_sshd_too(home: Path) -> None:
    shutil.copytree(ROOT / "lab", home / "lab")
    (home / "cluster").mkdir()
    for name in ("__init__.py", "errors.py", "namespace.py"):
        shutil.copy(ROOT / "cluster" / name, home / "cluster")
    words = [sys.executable]
    if os.geteuid() == 0:
        words = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "python3"]
        for path in (home, *home.rglob("*")):
            os.chown(path, USER, USER)
    done = subprocess.run(
        [*words, "-c", SCRIPT, str(home / "state")],
        cwd=home,
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(home), "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert json.loads(done.stdout) == {
        "up": True,
        "linked": True,
        "who": ["pi", "pi1", "/home/pi", "pi"],
        "sudo": "sudo: this lab was made without root: nobody is root here\n",
        "powered": False,
        "left": dict.fromkeys(["reverters", "rules", "slowed", "unplugged", "powerless"], 0),
        "booted anew": True,
        "down": True,
        "another cluster": "this command has joined a lab that was made without root, "
        "and cannot leave it",
        "files": False,
        "keeper": None,
        "processes": [],
    }
