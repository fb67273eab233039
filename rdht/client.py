"""The public API: a client of the table."""

import contextlib
import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypeVar

from rdht import roster
from rdht.coordinator import Command
from rdht.errors import AbortedError, ConfigurationError, UnknownOutcomeError
from rdht.execution import Execution, Outcome
from rdht.limits import MAX_WINDOW
from rdht.messages import Operation
from rdht.parts import Result
from rdht.profiles import DEFAULT_PROFILE, PROFILES
from rdht.ring import Ring
from rdht.roster import DEFAULT_KEY_RANGE, Roster
from rdht.session import Session
from rdht.transport import ClientConnection, Hello

_T = TypeVar("_T")
# A mapping's type is exact in its keys.
Values = Mapping[bytes, bytes | str] | Mapping[str, bytes | str] | Mapping[bytes | str, bytes | str]


class Versioned(NamedTuple):
    """A key's value (None: absent) and the version that `Client.cas` takes."""

    value: bytes | None
    version: int


class Client:
    """A client of the table, for any number of threads.

    Keys and values are bytes; a str is encoded as UTF-8. Each thread that uses the client has its
    own connections, opened when first needed. Every method may raise AbortedError (certainly not
    done) and UnknownOutcomeError (may be done), and RemoteProtocolError where the key's two
    replicas turn out to differ.
    """

    def __init__(
        self,
        servers: Roster | str | Path,
        *,
        key_range: int = DEFAULT_KEY_RANGE,
        profile: str = DEFAULT_PROFILE,
        name: str = "client",
        trace: bool = False,
    ) -> None:
        """Use the servers of a roster, given as a value or as its file's path.

        All clients of a table must use the same key range. Raises ConfigurationError.
        """
        self._roster = servers if isinstance(servers, Roster) else roster.load(servers)
        self._ring = Ring(self._roster, key_range)
        if profile not in PROFILES:
            why = f"there is no profile {profile!r}; there is {', '.join(sorted(PROFILES))}"
            raise ConfigurationError(why)
        self._profile = PROFILES[profile]
        self._secret = self._roster.secret()
        self._closed = False
        self._name = name
        self._trace = trace
        self._thread_numbers = itertools.count()
        self._local = threading.local()
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections of all threads, for good."""
        self._closed = True
        for session in list(self._sessions):
            session.close()

    def get(self, key: bytes | str) -> bytes | None:
        """Return the key's value, or None if it has none."""
        return _value(self._run(Operation.GET, key))

    def get_versioned(self, key: bytes | str) -> Versioned:
        """Return the key's value and version; an absent key has a version too."""
        result = self._run(Operation.GET, key)
        return Versioned(_value(result), result.version)

    def put(self, key: bytes | str, value: bytes | str) -> int:
        """Set the key's value; return its new version."""
        return _new_version(self._run(Operation.PUT, key, value))

    def add(self, key: bytes | str, value: bytes | str) -> bool:
        """Set the key's value if it has none; return whether it was set."""
        return self._run(Operation.ADD, key, value).found

    def delete(self, key: bytes | str) -> bool:
        """Remove the key's value; return whether there was one."""
        return self._run(Operation.DELETE, key).found

    def cas(self, key: bytes | str, value: bytes | str, version: int) -> bool:
        """Set the key's value if the key is still at `version`; return whether it was set."""
        return self._run(Operation.CAS, key, value, version).found

    def put_many(self, values: Values) -> None:
        """Set the values of many keys: all of them, or, if it raises AbortedError, none."""
        self._run_many([_command(Operation.PUT, *pair) for pair in values.items()])

    def get_many(self, keys: Iterable[bytes | str]) -> dict[bytes, bytes | None]:
        """Return the values of many keys (None: absent), all as they were at one moment."""
        asked = {_to_bytes(key) for key in keys}
        while True:
            results = self._run_many([Command(Operation.GET, key) for key in sorted(asked)])
            if len(results) == len(asked):
                return dict(zip(sorted(asked), map(_value, results), strict=True))
            # A server finished it in our place, and only knows that it was done: read again.

    @contextlib.contextmanager
    def pipeline(self, window: int = 32) -> Iterator["Pipeline"]:
        """Have up to `window` commands of this thread in flight; at the end all are over.

        Commands on one key keep their order. Raises the first error that no `Pending.result` has
        raised.
        """
        if not 0 < window < MAX_WINDOW:
            why = f"a window of {window}; allowed are 1 to {MAX_WINDOW - 1}"
            raise ConfigurationError(why)
        session = self._session()
        pipeline = Pipeline(session, window)
        try:
            yield pipeline
        finally:
            session.drain()
        pipeline.finish()

    def _run(
        self, operation: Operation, key: bytes | str, value: bytes | str = b"", version: int = 0
    ) -> Result:
        session = self._session()
        execution = session.execute((_command(operation, key, value, version),))
        return _results(session, execution)[0]

    def _run_many(self, commands: Sequence[Command]) -> list[Result]:
        if not commands:
            return []
        session = self._session()
        return _results(session, session.execute(commands))

    def _session(self) -> Session:
        """Return the session of this thread."""
        if self._closed:
            why = "the client is closed"
            raise AbortedError(why)
        session: Session | None = getattr(self._local, "session", None)
        if session is None or session.is_closed:
            session = Session(
                self._roster,
                self._ring,
                self._profile,
                self._name,
                next(self._thread_numbers),
                secret=self._secret,
                trace=self._trace,
            )
            self._local.session = session
            self._sessions.add(session)
        return session


class Pending(Generic[_T]):
    """What a command in a pipeline will return."""

    def __init__(
        self, session: Session, execution: Execution, convert: Callable[[Result], _T]
    ) -> None:
        """Stand for the result of `execution`."""
        self.is_collected = False
        self._session = session
        self._execution = execution
        self._convert = convert

    @property
    def is_settled(self) -> bool:
        """Whether there is no error left to raise."""
        return self.is_collected or self._execution.outcome is Outcome.DONE

    def result(self) -> _T:
        """Wait for the command's end; return or raise what `Client`'s method would have."""
        self.is_collected = True
        self._session.wait(self._execution)
        return self._convert(_results(self._session, self._execution)[0])


class Pipeline:
    """Commands in flight together; each method is that of `Client`, and returns at once."""

    def __init__(self, session: Session, window: int) -> None:
        """Run up to `window` commands at the same time on the session's connections."""
        self._session = session
        self._window = window
        self._pending: list[Pending[Any]] = []

    def get(self, key: bytes | str) -> Pending[bytes | None]:
        """Return the key's value, or None if it has none."""
        return self._begin(_value, Operation.GET, key)

    def put(self, key: bytes | str, value: bytes | str) -> Pending[int]:
        """Set the key's value; return its new version."""
        return self._begin(_new_version, Operation.PUT, key, value)

    def add(self, key: bytes | str, value: bytes | str) -> Pending[bool]:
        """Set the key's value if it has none; return whether it was set."""
        return self._begin(_found, Operation.ADD, key, value)

    def delete(self, key: bytes | str) -> Pending[bool]:
        """Remove the key's value; return whether there was one."""
        return self._begin(_found, Operation.DELETE, key)

    def cas(self, key: bytes | str, value: bytes | str, version: int) -> Pending[bool]:
        """Set the key's value if the key is still at `version`; return whether it was set."""
        return self._begin(_found, Operation.CAS, key, value, version)

    def finish(self) -> None:
        """Wait for all; raise the first error that was not raised yet."""
        self._session.drain()
        for pending in self._pending:
            if not pending.is_settled:
                pending.result()
        self._pending.clear()

    def _begin(
        self,
        convert: Callable[[Result], _T],
        operation: Operation,
        key: bytes | str,
        value: bytes | str = b"",
        version: int = 0,
    ) -> Pending[_T]:
        command = _command(operation, key, value, version)
        execution = self._session.submit((command,), self._window)
        pending = Pending(self._session, execution, convert)
        if len(self._pending) > 2 * self._window:
            self._pending = [one for one in self._pending if not one.is_settled]
        self._pending.append(pending)
        return pending


def _command(
    operation: Operation, key: bytes | str, value: bytes | str = b"", version: int = 0
) -> Command:
    return Command(operation, _to_bytes(key), _to_bytes(value), version)


def _results(session: Session, execution: Execution) -> list[Result]:
    """Return what a command that has ended found; raise if it was not done for certain."""
    if execution.outcome is Outcome.DONE:
        return execution.results()
    operation, key, _, _ = execution.commands[0]
    more = len(execution.commands) - 1
    what = f"{operation.name.lower()} of key {key!r}" + (f" and {more} more" if more else "")
    why = f"{execution.why}; " + "; ".join(map(str, session.lost.values()))
    if execution.outcome is Outcome.UNKNOWN:
        text = f"{what} may have been done: {why.removesuffix('; ')}"
        raise UnknownOutcomeError(text, session.lost)
    text = f"{what} was not done: {why.removesuffix('; ')}"
    raise AbortedError(text, session.lost)


def _value(result: Result) -> bytes | None:
    return result.value if result.found else None


def _new_version(result: Result) -> int:
    return result.version + 1


def _found(result: Result) -> bool:
    return result.found


def _to_bytes(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text


@contextlib.contextmanager
def observe(servers: Roster, name: str) -> Iterator[ClientConnection]:
    """Connect to one server to ask for its figures; runs no commands."""
    hello = Hello(name, [member.name for member in servers.servers], "observer", 0, 0, 0, 0)
    connection = ClientConnection(servers.server(name), hello, servers.secret())
    try:
        yield connection
    finally:
        connection.close()
