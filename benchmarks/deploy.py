"""Time our deploy beside naive Fabric, pyinfra and Ansible, on the hosts of the netns lab.

    sudo .venv/bin/python -m benchmarks.deploy --rounds 5

Each does the same on every host, as a command of its own, from nothing (first) and when all is
there already (again): make a folder, push a bundle, unpack it, write a configuration, start a
server, see it listen. Ours also verifies each file, flips all hosts or none, and has every host
reach every server. On more hosts it only deploys: so many servers, each with links to all others,
are too much for one machine. Rounds are interleaved; a host is booted anew before each first time.
The others are installed by

    /usr/bin/python3 -m venv .rdht/peers && .rdht/peers/bin/pip install pyinfra ansible-core

and left out with a line where they are missing.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from cluster import release
from cluster.command import ROOT, STATE
from cluster.namespace import inside
from lab import netns
from lab.host_files import USER

_DEPLOY_ALONE = "rdht: fab deploy"
LAB = STATE / "netns"
WORK = STATE / "benchmark"
PEERS = STATE / "peers" / "bin"
PORT = 8099
TIMEOUT_S = 300.0
_SSH = [
    *("-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={LAB / 'known_hosts'}"),
    *("-o", "IdentitiesOnly=yes", "-i", str(LAB / "id_ed25519")),
]


class Contender(NamedTuple):
    """A way to deploy: its name, and the command of one time."""

    name: str
    words: list[str]


class Times(NamedTuple):
    """How long it took, in seconds, a figure a round."""

    first: list[float]
    again: list[float]


def contenders(hosts: dict[str, str]) -> list[Contender]:
    """Return who takes part, ours first."""
    ours = [sys.executable, "-m", "fabric", "deploy", "start-servers"]
    naive = [sys.executable, str(_write("naive.py", _NAIVE.format(**_places()))), *hosts.values()]
    found = [
        Contender("rdht: fab deploy start-servers", ours),
        Contender(_DEPLOY_ALONE, ours[:-1]),
        Contender("naive Fabric", naive),
    ]
    if (PEERS / "pyinfra").exists():
        names = "\n".join(
            f"    ({address!r}, {{'ssh_user': {USER!r}, 'ssh_key': {str(LAB / 'id_ed25519')!r}, "
            f"'ssh_known_hosts_file': {str(LAB / 'known_hosts')!r}}}),"
            for address in hosts.values()
        )
        inventory = _write("inventory.py", f"hosts = [\n{names}\n]\n")
        job = _write("pyinfra_job.py", _PYINFRA.format(**_places()))
        found.append(Contender("pyinfra", [str(PEERS / "pyinfra"), "-y", str(inventory), str(job)]))
    if (PEERS / "ansible-playbook").exists():
        ssh = " ".join([*_SSH, "-o ControlMaster=auto -o ControlPersist=60s"])
        rows = "\n".join(hosts.values())
        inventory = _write(
            "inventory.ini",
            f"[all]\n{rows}\n[all:vars]\nansible_user={USER}\n"
            f"ansible_python_interpreter=/usr/bin/python3\nansible_ssh_args={ssh}\n"
            "ansible_pipelining=true\n",
        )
        play = _write("play.yaml", _ANSIBLE.format(**_places()))
        words = [str(PEERS / "ansible-playbook"), "-i", str(inventory), str(play)]
        found.append(Contender("Ansible, pipelining", words))
    return found


def measure(rivals: list[Contender], hosts: dict[str, str], rounds: int) -> dict[str, Times]:
    """Run all in turn, round after round."""
    times = {rival.name: Times([], []) for rival in rivals}
    for number in range(rounds):
        order = rivals[number % len(rivals) :] + rivals[: number % len(rivals)]
        for rival in order:
            _boot_anew(hosts)
            times[rival.name].first.append(_time(rival))
            times[rival.name].again.append(_time(rival))
    return times


def _time(rival: Contender) -> float:
    begun_s = time.perf_counter()
    done = subprocess.run(
        rival.words,
        cwd=ROOT,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    took_s = time.perf_counter() - begun_s
    if done.returncode:
        sys.exit(f"{rival.name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return took_s


def _environment() -> dict[str, str]:
    return {
        "PATH": f"{PEERS}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(WORK),
        "LANG": "C.UTF-8",
        "RDHT_CLUSTER": "netns",
        "ANSIBLE_FORKS": "50",
    }


def _boot_anew(hosts: dict[str, str]) -> None:
    """Make the hosts as they were: nothing runs, and nothing but the key is in their homes."""
    for host in hosts:
        netns.power_off(LAB, host)
        for path in (LAB / host / "home").iterdir():
            if path.name != ".ssh":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    for host in hosts:
        netns.power_on(LAB, host)


def _write(name: str, text: str) -> Path:
    WORK.mkdir(parents=True, exist_ok=True)
    path = WORK / name
    path.write_text(text, encoding="utf-8")
    return path


def _places() -> dict[str, str | int]:
    return {
        "bundle": str(WORK / "bundle.tar.gz"),
        "key": str(LAB / "id_ed25519"),
        "user": USER,
        "port": PORT,
    }


_START = (
    'kill -0 "$(cat job/pid 2>/dev/null)" 2>/dev/null || (cd job; '
    "setsid python3 -m http.server {port} >/dev/null 2>&1 </dev/null & echo $! >pid)"
)
_LOOK = "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}))'"
_LISTENS = f"for i in $(seq 100); do {_LOOK} 2>/dev/null && exit 0; sleep 0.1; done; exit 1"
_NAIVE = f'''\
import sys
from fabric import ThreadingGroup

login = {{{{"key_filename": "{{key}}"}}}}
hosts = ThreadingGroup(*sys.argv[1:], user="{{user}}", connect_kwargs=login)
hosts.run("mkdir -p job", hide=True)
hosts.put("{{bundle}}", "job/bundle.tar.gz")
hosts.run("tar -xzf job/bundle.tar.gz -C job && echo '{{{{}}}}' > job/config.json", hide=True)
hosts.run("""{_START}""", hide=True)
hosts.run("""{_LISTENS}""", hide=True)
'''
_PYINFRA = f'''\
from io import StringIO
from pyinfra.operations import files, server

files.directory(path="/home/{{user}}/job")
files.put(src="{{bundle}}", dest="/home/{{user}}/job/bundle.tar.gz")
files.put(src=StringIO("{{{{}}}}"), dest="/home/{{user}}/job/config.json")
server.shell(commands=[
    "tar -xzf job/bundle.tar.gz -C job",
    """{_START}""",
    """{_LISTENS}""",
])
'''
_ANSIBLE = f"""\
- hosts: all
  gather_facts: false
  tasks:
    - file: {{{{path: job, state: directory}}}}
    - unarchive: {{{{src: "{{bundle}}", dest: job}}}}
    - copy: {{{{content: "{{{{}}}}", dest: job/config.json}}}}
    - shell: |
        {_START}
    - wait_for: {{{{port: {{port}}, timeout: 10}}}}
"""


def show(counts: dict[str, dict[str, Times]]) -> None:
    """Print a table: medians, and the share of pyinfra's."""
    table = Table("hosts", "tool", "first s", "again s", "first ÷ pyinfra", "again ÷ pyinfra")
    for count, times in counts.items():
        peer = times.get("pyinfra")
        for name, (first, again) in times.items():
            medians = statistics.median(first), statistics.median(again)
            ratios = ["", ""]
            if peer is not None:
                theirs = statistics.median(peer.first), statistics.median(peer.again)
                ratios = [f"{m / t:.2f}" for m, t in zip(medians, theirs, strict=True)]
            table.add_row(count, name, *(f"{median:.2f}" for median in medians), *ratios)
    Console(width=110).print(table)


def run_with(count: int, rounds: int, choose: Callable[[str], bool]) -> dict[str, Times]:
    """Measure on so many hosts those of the contenders that are chosen."""
    hosts = netns.addresses(count)
    words = [sys.executable, "-m", "fabric", "lab.up", "--kind", "netns", "--hosts", str(count)]
    subprocess.run(words, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    try:
        _write("bundle.tar.gz", "").write_bytes(release.build(ROOT).bundle)
        with inside(LAB / "operator"):
            rivals = [one for one in contenders(hosts) if choose(one.name)]
            return measure(rivals, hosts, rounds)
    finally:
        words = [sys.executable, "-m", "fabric", "lab.down"]
        subprocess.run(words, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def main() -> None:
    """Measure all on five hosts, and our deploy on more."""
    parser = argparse.ArgumentParser(description="Time our deploy beside others'.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--more", type=int, nargs="*", default=[25, 50], help="hosts for our deploy"
    )
    options = parser.parse_args()
    if why := netns.missing():
        sys.exit(why)
    for tool in ("pyinfra", "ansible-playbook"):
        if not (PEERS / tool).exists():
            sys.stderr.write(f"{tool} is left out: see the top of {Path(__file__).name}\n")
    counts = {"5": run_with(5, options.rounds, lambda _: True)}
    for count in options.more:
        ours = run_with(count, options.rounds, lambda name: name == _DEPLOY_ALONE)
        counts[str(count)] = ours
    show(counts)


if __name__ == "__main__":
    main()
