"""What a durable participant must have on disk BEFORE it is believed."""

from rdht.messages import Message, Status
from rdht.replica import Replica


class WriteAhead:
    """What is to be written, and what may not be sent before it is."""

    def __init__(self, *, is_durable: bool) -> None:
        """Start with nothing to write; unless `is_durable`, nothing ever is."""
        self.is_durable = is_durable
        self.records: list[Message] = []
        self.must_sync = False  # the records so far, BEFORE what came with them is sent

    def record(self, message: Message, *, sync: bool) -> None:
        """Have a message written, and read when the participant is made anew."""
        self.records.append(message)
        self.must_sync = self.must_sync or sync

    def hold(self) -> None:
        """Let nothing be sent before all records so far are on disk."""
        self.must_sync = self.is_durable

    def take(self) -> tuple[list[Message], bool]:
        """Return the new records, and whether they must be synced."""
        taken = self.records, self.must_sync
        self.records, self.must_sync = [], False
        return taken


def epoch_of(replica: Replica, flags: int = 0) -> Message:
    """Return the record of a replica's epoch; INTACT: the pages before it are all it holds."""
    founded, number, epoch = replica.founded, replica.number, replica.epoch
    return Message(Status.JOINED, flags=flags, range=number, epoch=epoch, version=founded)
