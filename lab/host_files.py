"""The files that make a host of the netns lab a machine of its own.

<lab>/<host>/home/       /home/pi, all that a power cut leaves
             etc/…       bound over the machine's /etc, file by file
             boot_id     bound over /proc/sys/kernel/random/boot_id, new with each boot
             bin/        put in front of the path of sudo; its own sudo is bound over the
                         machine's where that can make nobody root
             console.log what its process 1 and its sshd say
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from lab import holder
from lab.errors import LabError

USER = "pi"
USER_ID = 60_777  # above users, below what systemd and containers give out
REBOOT_PATH = "/run/rdht-lab/reboot"

_KEYGEN = ["ssh-keygen", "-q", "-t", "ed25519", "-N", ""]
_TIMEOUT_S = 20.0

# Only who is needed: the machine's own users, and their passwords, are no business of a host.
_PASSWD = f"""\
root:x:0:0:root:/root:/bin/sh
{USER}:x:{USER_ID}:{USER_ID}::/home/{USER}:/bin/sh
sshd:x:{USER_ID + 1}:65534::/run/sshd:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
_GROUP = f"""\
root:x:0:
tty:x:5:
{USER}:x:{USER_ID}:
nogroup:x:65534:
"""
_SHADOW = f"""\
root:*:::::::
{USER}:*:::::::
sshd:*:::::::
nobody:*:::::::
"""
# A Pi lets its user do anything. Here root is the machine's own, so it is one thing.
_SUDOERS = f"""\
Defaults secure_path="{Path(REBOOT_PATH).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
root ALL=(ALL:ALL) ALL
{USER} ALL=(root) NOPASSWD: {REBOOT_PATH}
"""
_SSHD_CONFIG = f"""\
ListenAddress {{address}}
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile none
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile .ssh/authorized_keys
AllowUsers {USER}
MaxStartups 100:30:200
MaxSessions 100
Subsystem sftp internal-sftp
"""
_REBOOT = """\
#!/bin/sh
# Process 1 of this host takes this signal as a machine's takes Ctrl-Alt-Del.
kill -s INT 1
"""
# Where there is one user, the host's user may signal process 1 as root does.
_SUDO = f"""\
#!/bin/sh
case "$*" in
"-n --list reboot") ;;
"-n reboot") exec {REBOOT_PATH} ;;
*) echo "sudo: this lab was made without root: nobody is root here" >&2; exit 1 ;;
esac
"""


def make_key(path: Path, comment: str) -> str:
    """Make an ed25519 key pair and return the public half as an authorized_keys line."""
    try:
        subprocess.run(
            [*_KEYGEN, "-C", comment, "-f", path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except subprocess.SubprocessError as error:
        why = f"ssh-keygen made no {path}: {error}"
        raise LabError(why) from error
    return path.with_suffix(".pub").read_text(encoding="ascii")


def make(folder: Path, hosts: Mapping[str, str], name: str, login: str) -> str:
    """Make a host's files; `login` is the public key to log in with. Returns its own one."""
    files = {
        "etc/passwd": (0o644, _PASSWD),
        "etc/group": (0o644, _GROUP),
        "etc/shadow": (0o600, _SHADOW),
        "etc/sudoers": (0o440, _SUDOERS),
        "etc/hostname": (0o644, f"{name}\n"),
        "etc/hosts": (0o644, _hosts(hosts)),
        "etc/ssh/sshd_config": (0o644, _SSHD_CONFIG.format(address=hosts[name])),
        "bin/reboot": (0o755, _REBOOT),
        "bin/sudo": (0o755, _SUDO),
        "boot_id": (0o644, ""),
        "home/.ssh/authorized_keys": (0o600, login),
    }
    for place, (mode, text) in files.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
    for place in ("etc", "etc/ssh", "bin", "home"):
        (folder / place).chmod(0o755)  # whatever the operator's umask is
    (folder / "home" / ".ssh").chmod(0o700)
    if not holder.has_joined():  # where there is one user, what is ours is the host's user's
        for path in (folder / "home", *(folder / "home").rglob("*")):
            os.chown(path, USER_ID, USER_ID)
    return make_key(folder / "etc" / "ssh" / "ssh_host_ed25519_key", name)


def _hosts(hosts: Mapping[str, str]) -> str:
    rows = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in hosts.items())]
    return "".join(f"{row}\n" for row in rows)
