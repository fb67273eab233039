"""What can go wrong at the operator's desk; a task shows each as a line and an exit code."""

from pathlib import Path
from typing import Any

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_VERDICT = 3
EXIT_INTERRUPTED = 130


class ClusterError(Exception):
    """A step failed; the text says what was tried, what came back, what to do."""

    exit_code = EXIT_FAILED


class UsageError(ClusterError):
    """What was typed or configured cannot be."""

    exit_code = EXIT_USAGE


class InventoryError(UsageError):
    """A mistake in an inventory file."""

    def __init__(self, path: Path, line: int, field: str, why: str) -> None:
        """Name the file, the line, the field, what is wrong and what would be right."""
        super().__init__(f"{path}:{line}: {field}: {why}")


class HostError(ClusterError):
    """A step failed on one host; the text does not name the host, its table row does."""


class HostUnreachableError(HostError):
    """No connection to the host."""


class LoginRefusedError(HostError):
    """The host takes none of our keys, or not the password."""


class CommandFailedError(HostError):
    """A command ended on the host with an exit code other than 0."""

    def __init__(self, why: str, exit_code: int) -> None:
        """Say why, which is what the command said last."""
        super().__init__(why)
        self.exit_code_there = exit_code


class PythonMissingError(HostError):
    """The host has no Python to run a step with."""


class HostKeyError(HostError):
    """The host's key is not pinned, or not the one that is pinned."""


class HostsFailedError(ClusterError):
    """A step failed on some hosts."""

    def __init__(self, step: str, failures: dict[str, HostError], consequence: str = "") -> None:
        """Say a line a host, and then what that means for the whole."""
        self.failures = failures
        lines = [f"{host}: {step} failed: {error}" for host, error in failures.items()]
        super().__init__("\n".join(lines + [consequence] * bool(consequence)))


class VerdictError(ClusterError):
    """The run ended, and its verdict is bad."""

    exit_code = EXIT_VERDICT

    def __init__(self, why: str, result: Any = None) -> None:
        """Say why; `result` is what --json prints all the same."""
        super().__init__(why)
        self.result = result
