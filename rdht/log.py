"""Log lines: UTC time first, so that many hosts' logs merge by sorting."""

import logging
import sys
from datetime import UTC, datetime

from rdht.messages import Message, Status


class _Formatter(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802 - logging's own signature
        moment = datetime.fromtimestamp(record.created, UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def set_up(process: str) -> logging.Logger:
    """Return the process's logger; it writes to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(f"%(asctime)s %(levelname)s {process}: %(message)s"))
    logger = logging.getLogger("rdht")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger


def trace_line(  # noqa: PLR0913, PLR0917 - the fields of the original's line
    server: str, client: str, thread: int, request: Message, status: Status, order: int
) -> str:
    """Describe one message as the original's log did.

    `request` names key, value and command, which an answer does not repeat; `order` is the
    message's running number at the process that logs it.
    """
    sequence, attempt = request.name.sequence, request.name.attempt
    return (
        f"trace server={server} client={client} thread={thread} "
        f"key={request.key.decode(errors='backslashreplace')!r} "
        f"value={request.value.decode(errors='backslashreplace')!r} "
        f"command={request.operation.name.lower()} status={int(status)}:{status.name} "
        f"order={order} transaction={sequence}.{attempt}"
    )
