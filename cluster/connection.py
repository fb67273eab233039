"""SSH connections with strict host keys; the only module that imports fabric.

Fabric's own Connection accepts any host key and reads no known_hosts. This one knows only the
keys that the inventory pins, for gateways too, and takes nothing from the user's ssh_config.
"""

import base64
import binascii
import contextlib
import hashlib
import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import fabric
import paramiko

from cluster.errors import CommandFailedError, HostError, HostKeyError, HostUnreachableError
from cluster.inventory import Cluster, Host

CONNECT_TIMEOUT_S = 10
FETCH_TIMEOUT_S = 30  # without a byte
SEND_BYTES = 32 * 1024

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # its errors reach us as exceptions
logging.getLogger("paramiko").propagate = False


class _PinnedOnly(paramiko.MissingHostKeyPolicy):
    """Refuse a host whose key is not pinned, and say how to pin it."""

    def __init__(self, known_hosts: Path) -> None:
        self.known_hosts = known_hosts

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        del client
        why = (
            f"its host key is not pinned. It showed {key.get_name()} {fingerprint(key)}; if it is "
            "what the machine itself prints for ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub, "
            f"add this line to {self.known_hosts}: {hostname} {key.get_name()} {key.get_base64()}"
        )
        raise HostKeyError(why)


class Connection(fabric.Connection):  # type: ignore[misc]
    """An ssh connection to one host of the cluster."""

    def __init__(self, cluster: Cluster, host: Host) -> None:
        """Prepare the connection; it opens when first used."""
        gateway = None
        if host.gateway is not None:
            through = Host(
                f"the gateway of {host.name}",
                host.gateway.address,
                host.gateway.port,
                host.gateway.user or host.user,
                host.identity_file,
            )
            gateway = Connection(cluster, through)
        identity = {"key_filename": str(host.identity_file)} if host.identity_file else {}
        super().__init__(
            host.address,
            user=host.user,
            port=host.ssh_port,
            gateway=gateway,
            config=fabric.Config(ssh_config=paramiko.SSHConfig(), lazy=True),
            connect_timeout=CONNECT_TIMEOUT_S,
            connect_kwargs={
                **identity,
                "look_for_keys": host.identity_file is None,
                "banner_timeout": CONNECT_TIMEOUT_S,
                "auth_timeout": CONNECT_TIMEOUT_S,
            },
        )
        self._known_hosts = cluster.known_hosts
        self._identity_file = host.identity_file
        self._where = f"{host.address}:{host.ssh_port}"
        self.client.set_missing_host_key_policy(_PinnedOnly(cluster.known_hosts))

    def open(self) -> None:
        """Connect; every way to fail is a HostError that says what to do."""
        if self.is_connected:
            return
        if self._identity_file is not None and not self._identity_file.is_file():
            why = f"there is no key {self._identity_file}: is identity_file right, or the lab down?"
            raise HostError(why)
        self._load_pins()
        try:
            super().open()
        except paramiko.BadHostKeyException as error:
            why = (
                f"its host key has changed: pinned is {fingerprint(error.expected_key)}, it showed "
                f"{fingerprint(error.key)}. If you replaced or reinstalled the machine, take its "
                f"old line out of {self._known_hosts}; if you did not, somebody is in between"
            )
            raise HostKeyError(why) from error
        except (paramiko.AuthenticationException, paramiko.PasswordRequiredException) as error:
            why = f"ssh login as {self.user} at {self._where} was refused: is your key there?"
            raise HostError(why) from error
        except (paramiko.SSHException, EOFError) as error:
            why = f"ssh to {self._where}: {error or 'the connection ended'}"
            raise HostUnreachableError(why) from error
        except OSError as error:
            why = f"no connection to {self._where}: {_reason(error)}"
            raise HostUnreachableError(why) from error
        if isinstance(self.transport.sock, socket.socket):
            # paramiko leaves Nagle's algorithm on, which costs 40 ms an exec.
            self.transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport.set_keepalive(5)

    def _load_pins(self) -> None:
        if self._known_hosts.is_file():
            try:
                self.client.load_host_keys(str(self._known_hosts))
            except (paramiko.SSHException, ValueError, binascii.Error) as error:
                why = f"{self._known_hosts} is no file of host keys: {error}"
                raise HostKeyError(why) from error

    def lines(
        self, command: str, stdin: bytes, timeout_s: float, sent: Callable[[int], None]
    ) -> Iterator[str]:
        """Run a command with `stdin` and yield its output line by line as it comes.

        `timeout_s` bounds each wait for more; `sent` gets the size of each piece of stdin that is
        off. Raises HostError with the end of stderr if the command fails.
        """
        self.open()
        try:
            with contextlib.closing(
                self.transport.open_session(timeout=CONNECT_TIMEOUT_S)
            ) as channel:
                channel.settimeout(timeout_s)
                channel.exec_command(command)
                for at in range(0, len(stdin), SEND_BYTES):
                    channel.sendall(stdin[at : at + SEND_BYTES])
                    sent(min(SEND_BYTES, len(stdin) - at))
                channel.shutdown_write()
                yield from channel.makefile("r")
                errors = channel.makefile_stderr("r").read().decode(errors="replace")
                if code := channel.recv_exit_status():
                    last = (errors.strip().splitlines() or ["no output"])[-1]
                    raise CommandFailedError(last, code)
        except TimeoutError as error:
            why = f"no answer within {timeout_s:.0f} s"
            raise HostError(why) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            self.close()
            why = f"the connection to {self._where} was lost: {error or 'it ended'}"
            raise HostUnreachableError(why) from error

    def fetch(
        self, remote: str, local: Path, size_bytes: int, received: Callable[[int], None]
    ) -> None:
        """Copy the first `size_bytes` of a host's file, going on behind what `local` holds.

        `received` gets the size of each piece.
        """
        self.open()
        try:
            sftp = self.sftp()
            sftp.get_channel().settimeout(FETCH_TIMEOUT_S)
            with sftp.open(remote, "rb") as source, local.open("ab") as target:
                source.seek(target.tell())
                source.prefetch(size_bytes)
                while (left := size_bytes - target.tell()) > 0:
                    data = source.read(min(SEND_BYTES, left))
                    if not data:
                        return
                    target.write(data)
                    received(len(data))
        except (paramiko.SSHException, EOFError) as error:
            self.close()
            why = f"the connection to {self._where} was lost: {error or 'it ended'}"
            raise HostUnreachableError(why) from error
        except OSError as error:
            why = f"{remote} → {local}: {_reason(error)}"
            raise HostError(why) from error


def fingerprint(key: paramiko.PKey) -> str:
    """Return a key's SHA-256 fingerprint as OpenSSH prints it."""
    digest = hashlib.sha256(key.asbytes()).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _reason(error: OSError) -> str:
    inner = getattr(error, "errors", None)  # paramiko: one error an address that was tried
    if inner:
        error = next(iter(inner.values()))
    return error.strerror or str(error) or type(error).__name__
