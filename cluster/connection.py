"""SSH connections with strict host keys; the only module that imports fabric.

Fabric's own Connection accepts any host key and reads no known_hosts. This one knows only the
keys that the inventory pins, for gateways too, and takes nothing from the user's ssh_config.
"""

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import fabric
import paramiko

from cluster import hostkeys
from cluster.errors import (
    CommandFailedError,
    HostError,
    HostKeyError,
    HostUnreachableError,
    LoginRefusedError,
)
from cluster.hostkeys import HostKey, from_paramiko
from cluster.inventory import Cluster, Host

CONNECT_TIMEOUT_S = 10
AGAIN_TIMEOUT_S = 3  # for a host that was out of reach when last tried: each step would wait anew
FETCH_TIMEOUT_S = 30  # without a byte
LINK_TIMEOUT_S = 15  # without an acknowledgement of what was sent
KEEPALIVE_S = 5
SEND_BYTES = 32 * 1024
AUTHORIZED_KEYS = ".ssh/authorized_keys"

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # its errors reach us as exceptions
logging.getLogger("paramiko").propagate = False


class _PinnedOnly(paramiko.MissingHostKeyPolicy):
    """Refuse a host whose key is not pinned, and say how to pin it."""

    def __init__(self, known_hosts: Path) -> None:
        self.known_hosts = known_hosts

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        del client, hostname
        why = (
            f"its host key is not pinned in {self.known_hosts}. It showed {key.get_name()} "
            f"{from_paramiko(key).fingerprint}: compare, and pin it, with fab trust"
        )
        raise HostKeyError(why)


class Program:
    """A program that runs on a host: what is sent to it, and the lines that it prints."""

    def __init__(self, channel: paramiko.Channel, command: str) -> None:
        """Run the command on a channel of its own."""
        self.channel = channel
        self.command = command
        self.loaded: set[str] = set()  # the names of the code that it has been sent
        self._output = channel.makefile("r")
        channel.exec_command(command)

    @property
    def runs(self) -> bool:
        """Whether it has not ended, as far as we know."""
        return not (self.channel.closed or self.channel.exit_status_ready())

    def send(self, data: bytes, sent: Callable[[int], None]) -> None:
        """Send to its stdin; `sent` gets the size of each piece that is off.

        If it has ended, what it printed tells why.
        """
        for at in range(0, len(data), SEND_BYTES):
            try:
                self.channel.sendall(data[at : at + SEND_BYTES])
            except TimeoutError:
                raise
            except OSError:
                if self.channel.get_transport().is_active():
                    return
                raise
            sent(min(SEND_BYTES, len(data) - at))

    def __iter__(self) -> Iterator[str]:
        """Yield each line that it prints, until it ends; CommandFailedError if it failed."""
        while line := self._output.readline():
            yield line
        errors = self.channel.makefile_stderr("r").read().decode(errors="replace")
        code = self.channel.recv_exit_status()
        if code < 0 and not self.channel.get_transport().is_active():
            raise EOFError
        if code:
            last = (errors.strip().splitlines() or ["no output"])[-1]
            raise CommandFailedError(last, code)

    def close(self) -> None:
        """Let it go; it ends when it next reads or prints."""
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):  # the link is gone
            self.channel.close()


class Connection(fabric.Connection):  # type: ignore[misc]
    """An ssh connection to one host of the cluster."""

    _waiting: list[Program]
    _is_lost: bool  # when last tried

    def __init__(self, cluster: Cluster, host: Host, password: str | None = None) -> None:
        """Prepare the connection; it opens when first used.

        With a `password` no key is tried at the host, only at its gateway.
        """
        identity: dict[str, Any] = {
            "look_for_keys": host.identity_file is None and password is None,
            "allow_agent": password is None,
            "password": password,
        }
        if host.identity_file is not None and password is None:
            identity["key_filename"] = str(host.identity_file)
        super().__init__(
            host.address,
            user=host.user,
            port=host.ssh_port,
            gateway=Connection(cluster, gateway) if (gateway := gateway_of(host)) else None,
            config=fabric.Config(ssh_config=paramiko.SSHConfig(), lazy=True),
            connect_timeout=CONNECT_TIMEOUT_S,
            connect_kwargs={
                **identity,
                "banner_timeout": CONNECT_TIMEOUT_S,
                "auth_timeout": CONNECT_TIMEOUT_S,
            },
        )
        # Invoke takes any attribute that it does not know for a setting, and copies all of them.
        self._set(
            _name=host.name,
            _known_hosts=cluster.known_hosts,
            _has_password=password is not None,
            _identity_file=None if password is not None else host.identity_file,
            _where=f"{host.address}:{host.ssh_port}",
            _waiting=[],
            _waiting_lock=threading.Lock(),
            _opening_lock=threading.Lock(),
            _is_lost=False,
        )
        self.client.set_missing_host_key_policy(_PinnedOnly(cluster.known_hosts))

    def open(self) -> None:
        """Connect; every way to fail is a HostError that says what to do."""
        with self._opening_lock:  # several steps may find the host back at once
            self._open()

    def _open(self) -> None:
        if self.is_connected:
            return
        if self._identity_file is not None and not self._identity_file.is_file():
            why = f"there is no key {self._identity_file}: fab setup (for a lab: lab.up) makes it"
            raise HostError(why)
        self.close()  # what is left of a connection that ended by itself
        hostkeys.load(self._known_hosts, self.client.get_host_keys())
        self.connect_timeout = AGAIN_TIMEOUT_S if self._is_lost else CONNECT_TIMEOUT_S
        try:
            super().open()
        except paramiko.BadHostKeyException as error:
            pinned, shown = (from_paramiko(key) for key in (error.expected_key, error.key))
            why = (
                f"its host key has changed: pinned is {pinned.fingerprint}, it showed "
                f"{shown.fingerprint}. If you replaced or reinstalled the machine: "
                f"fab trust --replace --limit {self._name}; if you did not, somebody is in between"
            )
            raise HostKeyError(why) from error
        except (paramiko.SSHException, EOFError) as error:
            if isinstance(error, paramiko.AuthenticationException) or self._waits_for_login:
                what = "with the password" if self._has_password else "(fab setup brings your key)"
                why = f"ssh login as {self.user} at {self._where} was refused {what}"
                raise LoginRefusedError(why) from error
            why = f"ssh to {self._where}: {error or 'the connection ended'}"
            raise self._lost(why) from error
        except OSError as error:
            why = f"no connection to {self._where}: {_reason(error)}"
            raise self._lost(why) from error
        if isinstance(self.transport.sock, socket.socket):
            # paramiko leaves Nagle's algorithm on, which costs 40 ms an exec.
            self.transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # It would send, and wait for a channel, for as long as the kernel hopes: 15 minutes.
            limit_ms = LINK_TIMEOUT_S * 1000
            self.transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)
        self.transport.set_keepalive(KEEPALIVE_S)
        self._is_lost = False

    @property
    def _waits_for_login(self) -> bool:
        """Whether the host is there and its key is right, but we had nothing to log in with."""
        transport = self.client.get_transport()
        return bool(
            transport
            and transport.is_active()
            and transport.initial_kex_done
            and not transport.authenticated
        )

    def _lost(self, why: str) -> HostUnreachableError:
        self._is_lost = True
        return HostUnreachableError(why)

    @contextlib.contextmanager
    def program(self, command: str, timeout_s: float) -> Iterator[Program]:
        """Lend a program that runs on the host: one that was lent before and waits, or a new one.

        `timeout_s` bounds each wait for it, and every way to fail is a HostError. It is ended if
        the block does not come to its end.
        """
        self.open()
        transport = self.transport
        try:
            with contextlib.ExitStack() as failing:
                program = self._waiting_program(command) or Program(
                    transport.open_session(timeout=CONNECT_TIMEOUT_S), command
                )
                failing.callback(program.close)
                program.channel.settimeout(timeout_s)
                yield program
                failing.pop_all()
        except TimeoutError as error:
            self._give_up(transport)  # whatever hangs there, the next step is not to wait for it
            why = f"no answer within {timeout_s:.0f} s"
            raise HostError(why) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            self._give_up(transport)
            why = f"the connection to {self._where} was lost: {error or 'it ended'}"
            raise self._lost(why) from error
        with self._waiting_lock:
            self._waiting.append(program)

    def _give_up(self, transport: paramiko.Transport) -> None:
        """Close the connection, unless another step has made a new one since."""
        with self._opening_lock:
            if self.transport is transport:
                self.close()
            else:
                transport.close()

    def _waiting_program(self, command: str) -> Program | None:
        """Take a program that waits, if one runs this command; forget those that have ended."""
        with self._waiting_lock:
            self._waiting[:] = [each for each in self._waiting if each.runs]
            for program in self._waiting:
                if program.command == command:
                    self._waiting.remove(program)
                    return program
        return None

    def lines(
        self, command: str, stdin: bytes, timeout_s: float, sent: Callable[[int], None]
    ) -> Iterator[str]:
        """Run a command with `stdin` and yield its output line by line as it comes.

        `timeout_s` bounds each wait for more; `sent` gets the size of each piece of stdin that is
        off. Raises HostError with the end of stderr if the command fails.
        """
        with self.program(command, timeout_s) as program:
            program.send(stdin, sent)
            program.channel.shutdown_write()
            yield from program

    def authorize(self, line: str) -> None:
        """Let a public key log in as this user; all other lines of authorized_keys stay."""
        self.open()
        try:
            sftp = self.sftp()
            with contextlib.suppress(OSError):  # it is there
                sftp.mkdir(".ssh", 0o700)
            text = ""
            with contextlib.suppress(FileNotFoundError), sftp.open(AUTHORIZED_KEYS) as file:
                text = file.read().decode(errors="surrogateescape")
            if text and not text.endswith("\n"):
                text += "\n"
            temporary = f"{AUTHORIZED_KEYS}.{os.urandom(8).hex()}"
            with sftp.open(temporary, "wx") as file:
                sftp.chmod(temporary, 0o600)  # sshd trusts no file that others can write
                file.write(f"{text}{line}\n".encode(errors="surrogateescape"))
            sftp.posix_rename(temporary, AUTHORIZED_KEYS)
        except (paramiko.SSHException, EOFError, OSError) as error:
            why = f"cannot write {AUTHORIZED_KEYS} on the host: {error or 'the connection ended'}"
            raise HostError(why) from error

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
                    try:
                        data = source.read(min(SEND_BYTES, left))
                    except TimeoutError:
                        self.close()  # BEFORE the file is: it would wait for an answer to that
                        raise
                    if not data:
                        return
                    target.write(data)
                    received(len(data))
        except TimeoutError as error:
            why = f"no byte of {remote} from {self._where} within {FETCH_TIMEOUT_S} s"
            raise HostUnreachableError(why) from error
        except (paramiko.SSHException, EOFError) as error:
            self.close()
            why = f"the connection to {self._where} was lost: {error or 'it ended'}"
            raise HostUnreachableError(why) from error
        except OSError as error:
            why = f"{remote} → {local}: {_reason(error)}"
            raise HostError(why) from error


def gateway_of(host: Host) -> Host | None:
    """Return the machine that ssh goes through to the host, as a host of its own."""
    if host.gateway is None:
        return None
    user, address, port = host.gateway
    return Host(f"the gateway of {host.name}", address, port, user or host.user, host.identity_file)


def host_key(cluster: Cluster, host: Host, kinds: Collection[str]) -> HostKey:
    """Return the key that a host shows, without logging in; its gateway's must be pinned.

    A host that has several shows one of `kinds`, such as ssh-ed25519, if it can.
    """
    where = f"{host.address}:{host.ssh_port}"
    gateway = gateway_of(host)
    try:
        with contextlib.ExitStack() as stack:
            sock: socket.socket | paramiko.Channel
            if gateway is None:
                sock = socket.create_connection((host.address, host.ssh_port), CONNECT_TIMEOUT_S)
            else:
                connection = stack.enter_context(Connection(cluster, gateway))
                connection.open()
                target, source = (host.address, host.ssh_port), ("", 0)
                sock = connection.transport.open_channel("direct-tcpip", target, source)
            transport = stack.enter_context(contextlib.closing(paramiko.Transport(sock)))
            options = transport.get_security_options()
            options.key_types = sorted(options.key_types, key=lambda kind: _key(kind) not in kinds)
            transport.start_client(timeout=CONNECT_TIMEOUT_S)
            return from_paramiko(transport.get_remote_server_key())
    except (paramiko.SSHException, EOFError) as error:
        why = f"ssh to {where}: {error or 'the connection ended'}"
        raise HostUnreachableError(why) from error
    except OSError as error:
        why = f"no connection to {where}: {_reason(error)}"
        raise HostUnreachableError(why) from error


def _key(algorithm: str) -> str:
    """Return the kind of key that a signature algorithm works with."""
    return "ssh-rsa" if algorithm.startswith("rsa-") else algorithm


def _reason(error: OSError) -> str:
    inner = getattr(error, "errors", None)  # paramiko: one error an address that was tried
    if inner:
        error = next(iter(inner.values()))
    return error.strerror or str(error) or type(error).__name__
