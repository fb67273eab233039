"""A host of the netns lab, as a program: `power` boots it, `boot` is its process 1.

Both are started with the host's folder, its name and the path of sshd, inside its network
namespace; and with the number of the host's user where that is the only one, so that sshd is to run
as that user. Only the standard library, and nothing of ours: once `boot` has hidden the machine's
files, no import may find them.
"""

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_REBOOT = 75  # the exit code with which process 1 asks to be booted again
_GRACE_S = 2.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OWN_WORLD = [
    *("unshare", "--mount", "--pid", "--uts", "--ipc"),
    *("--fork", "--kill-child=SIGKILL", "--mount-proc", "--propagation", "private"),
]
_BIND, _DETACH = 0x1000, 2  # MS_BIND, MNT_DETACH of sys/mount.h

# The host's own: what it writes, and what it must not see of the machine and of other hosts.
_EMPTY = {
    "/dev/shm": "mode=1777",  # noqa: S108 - is mounted on
    "/home": "mode=755",
    "/run": "mode=755",
    "/tmp": "mode=1777",  # noqa: S108 - is mounted on
    "/var/log": "mode=755",
    "/var/tmp": "mode=1777",  # noqa: S108 - is mounted on
}
_ETC = ["group", "hostname", "hosts", "passwd", "shadow", "ssh", "sudoers"]
_BOUND = {
    **{f"etc/{name}": f"/etc/{name}" for name in _ETC},
    "home": "/home/pi",
    "bin": "/run/rdht-lab",
    "boot_id": "/proc/sys/kernel/random/boot_id",
}
_SUDO = "/usr/bin/sudo"
_UNPRIVILEGED_PORTS = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
_MADE = ["/home/pi", "/run/rdht-lab", "/run/sshd", "/run/lock"]

_libc = ctypes.CDLL(None, use_errno=True)


def power(*words: str) -> int:
    """Boot the host, and again whenever it reboots; end when it ends."""
    own = [sys.executable, "-I", "-S", __file__]
    code = _REBOOT
    while code == _REBOOT:
        boot = [*_OWN_WORLD, *own, "boot", *words]
        code = os.spawnvp(os.P_WAIT, boot[0], boot)  # noqa: S606 - no shell is wanted
    return code


def boot(folder: str, name: str, sshd: str, only_user: str = "") -> int:
    """Be process 1: make the host's world, keep sshd, take in orphans, shut down on a reboot."""
    os.chdir(folder)  # BEFORE anything is mounted over its path: `.` stays what it is
    os.umask(0o022)  # whatever the operator's is
    Path("boot_id").write_bytes(Path("/proc/sys/kernel/random/uuid").read_bytes())
    _libc.sethostname(name.encode(), len(name))
    _make_world()
    _use_cubic()
    command = [sshd, "-D", "-e"]
    if only_user:
        command = ["unshare", f"--map-user={only_user}", f"--map-group={only_user}", *command]
        _UNPRIVILEGED_PORTS.write_text("0", encoding="ascii")
        if Path(_SUDO).exists():
            _mount("bin/sudo", _SUDO, None, _BIND)
    os.chdir("/")
    environment = {"PATH": _PATH, "LANG": "C.UTF-8"}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup or & would have it ignored
    daemon = os.posix_spawnp(command[0], command, environment)
    try:
        while os.wait()[0] != daemon:
            pass
    except KeyboardInterrupt:
        _shut_down()
        return _REBOOT
    sys.exit(f"{name}: sshd has ended, and the host with it")


def _make_world() -> None:
    # A namespace that another lab takes down lives on while this host still has it mounted.
    while _libc.umount2(b"/run/netns", _DETACH) == 0:
        pass
    _mount("sysfs", "/sys", "sysfs")
    for place, options in _EMPTY.items():
        if Path(place).is_dir():
            _mount("tmpfs", place, "tmpfs", data=options)
    for place in _MADE:
        Path(place).mkdir()
    for source, place in _BOUND.items():
        if Path(place).exists():  # a machine without sudo has no sudoers
            _mount(source, place, None, _BIND)


def _mount(source: str, place: str, kind: str | None, flags: int = 0, data: str = "") -> None:
    """Mount by the system's call: a relative source means `.`, whatever hides its path."""
    words = (source.encode(), place.encode(), kind.encode() if kind else None)
    if _libc.mount(*words, ctypes.c_ulong(flags), data.encode()):
        reason = os.strerror(ctypes.get_errno())
        sys.exit(f"mount {source} on {place}: {reason}")


def _use_cubic() -> None:
    """Send as a Pi does: the kernel of this machine may have another way by default."""
    control = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    with suppress(OSError):  # this kernel has no cubic
        if control.read_text(encoding="ascii").strip() != "cubic":
            control.write_text("cubic", encoding="ascii")


def _shut_down() -> None:
    """Ask all processes to end; who does not is killed by the kernel together with process 1."""
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGTERM)
    deadline_s = time.monotonic() + _GRACE_S
    with suppress(ChildProcessError):
        while time.monotonic() < deadline_s:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.02)


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    sys.exit(power(*arguments) if verb == "power" else boot(*arguments))
