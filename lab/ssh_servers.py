"""The loopback lab's hosts, as a program: an SSH server each, in one process."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import asyncssh

from lab.loopback import ADDRESS, MARK

_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"  # as sshd gives it
_PIECE_BYTES = 64 * 1024


def _make_keys(folder: Path, ports: dict[str, int]) -> None:
    """Make the operator's key, a key for each host, and pin the latter."""
    _write_key(folder / "id_ed25519")
    pins = []
    for host, port in ports.items():
        (folder / host / "home").mkdir(parents=True)
        key = _write_key(folder / host / "host_key")
        public = " ".join(key.export_public_key().decode().split()[:2])
        pins.append(f"[{ADDRESS}]:{port} {public}\n")
    (folder / "known_hosts").write_text("".join(pins), encoding="utf-8")


def _write_key(path: Path) -> asyncssh.SSHKey:
    key = asyncssh.generate_private_key("ssh-ed25519")
    path.touch(mode=0o600)
    key.write_private_key(path)
    key.write_public_key(path.with_suffix(".pub"))
    return key


class _Login(asyncssh.SSHServer):
    """One login; like sshd by default, it lets a client go on to other addresses."""

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> bool:
        del dest_port, orig_host, orig_port
        return dest_host == ADDRESS


class _Host:
    """One SSH server with its own home folder."""

    def __init__(self, folder: Path, name: str, port: int) -> None:
        self.name = name
        self.home = folder / name / "home"
        self._folder = folder
        self._port = port

    async def listen(self) -> None:
        await asyncssh.listen(
            ADDRESS,
            self._port,
            server_factory=_Login,
            server_host_keys=[self._folder / self.name / "host_key"],
            authorized_client_keys=str(self._folder / "id_ed25519.pub"),
            process_factory=self._run,
            sftp_factory=lambda channel: asyncssh.SFTPServer(
                channel, chroot=str(self.home).encode()
            ),
            encoding=None,
            line_editor=False,
        )

    async def _run(self, process: "asyncssh.SSHServerProcess[bytes]") -> None:
        """Run a command as sshd does: by a shell, in the home folder, with streams as they are."""
        child = await asyncio.create_subprocess_exec(
            "/bin/sh",
            *(["-c", process.command] if process.command else []),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.home,
            env=self._environment(),
            process_group=0,
        )
        assert child.stdin and child.stdout and child.stderr  # noqa: PT018 - pipes were asked for
        feed = asyncio.create_task(_feed(process.stdin, child.stdin))
        await asyncio.gather(
            _pump(child.stdout, process.stdout), _pump(child.stderr, process.stderr)
        )
        code = await child.wait()
        feed.cancel()
        process.exit(code if code >= 0 else 128 - code)

    def _environment(self) -> dict[str, str]:
        """Return what a login gets."""
        return {
            "HOME": str(self.home),
            "USER": "pi",
            "LOGNAME": "pi",
            "SHELL": "/bin/sh",
            "LANG": "C.UTF-8",
            "PATH": _search_path(),
            MARK: os.environ[MARK],
        }


@cache
def _search_path() -> str:
    """Return where a host finds programs: as sshd, in the system's folders.

    Where the system's own python3 is missing or too old, the one that runs this lab comes first.
    """
    system, own = _SYSTEM_PATH, Path(sys.executable).resolve().parent
    try:
        new_enough = subprocess.run(
            ["python3", "-c", "import sys; sys.exit(sys.version_info < (3, 11))"],  # noqa: S607 - searched on purpose
            env={"PATH": system},
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        return f"{own}:{system}"
    return f"{own}:{system}" if new_enough.returncode else f"{system}:{own}"


async def _feed(source: "asyncssh.SSHReader[bytes]", target: asyncio.StreamWriter) -> None:
    with suppress(OSError, asyncssh.Error):
        while data := await source.read(_PIECE_BYTES):
            target.write(data)
            await target.drain()
        target.close()


async def _pump(source: asyncio.StreamReader, target: "asyncssh.SSHWriter[bytes]") -> None:
    """Copy a stream; asyncssh's own redirection lost stderr and exit codes."""
    with suppress(OSError, asyncssh.Error):
        while data := await source.read(_PIECE_BYTES):
            target.write(data)
            await target.drain()


async def _serve(folder: Path, ready: int) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _make_keys(folder, config["ports"])
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    for name, port in config["ports"].items():
        try:
            await _Host(folder, name, port).listen()
        except OSError as error:
            sys.exit(f"{name}: port {port} on {ADDRESS}: {os.strerror(error.errno or 0)}")
    os.write(ready, b"1")
    os.close(ready)
    await stop.wait()


def _main(folder: Path) -> int:
    """Serve in a child, in its own session; end with 0 once all its hosts are up."""
    read_end, write_end = os.pipe()
    if os.fork():
        os.close(write_end)
        return 0 if os.read(read_end, 1) else 1
    os.close(read_end)
    os.setsid()
    asyncssh.set_log_level("WARNING")
    asyncio.run(_serve(folder, write_end))
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
