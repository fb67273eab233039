"""Every exception of the table, by what it means to the caller."""


class RdhtError(Exception):
    """Base of all errors that this package raises on purpose."""


class ConfigurationError(RdhtError):
    """A roster, parameter or result file is wrong; the text says where and what would be right."""


class ProtocolError(RdhtError):
    """Somebody broke the protocol."""


class LocalProtocolError(ProtocolError):
    """This side tried something that the protocol does not allow; nothing was changed or sent."""


class RemoteProtocolError(ProtocolError):
    """The other side sent something that the protocol does not allow; close the connection."""


class NetworkError(RdhtError):
    """A connection could not be made or was lost."""


class ConnectError(NetworkError):
    """No connection to a server, or the server refused the handshake."""


class ConnectionLostError(NetworkError):
    """An open connection ended."""


class DeadlineError(NetworkError):
    """The other side did not answer in time."""


class OutcomeError(RdhtError):
    """A command did not end as done; `lost` has the servers that were lost meanwhile, and how."""

    def __init__(self, why: str, lost: dict[str, RdhtError] | None = None) -> None:
        """Say why, and which servers did not answer."""
        super().__init__(why)
        self.lost = lost or {}


class AbortedError(OutcomeError):
    """The command was certainly not carried out."""


class UnknownOutcomeError(OutcomeError):
    """The command may or may not have been carried out."""


class AuthenticationError(RdhtError):
    """The other side lacks the cluster's secret, or a frame was changed; close the connection."""


class StorageError(RdhtError):
    """The files of a durable server cannot be written or read, or are damaged."""
