"""What the participants of a transaction tell each other once its client is gone.

A `Resolution` changes nothing: it says what one server answers to a RESOLVE, and what the answers
that it has got itself decide. docs/protocol.md has the answers, and why they are enough.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence

from rdht.messages import Message, Operation, Reason, Status
from rdht.replica import Mode, Replica
from rdht.ring import Replicas
from rdht.table import ABSENT
from rdht.transaction import Transaction
from rdht.transitions import State

_RANGE_NUMBER = struct.Struct("!H")
_SILENT = {Operation.GET, Operation.MANY}  # a key's version does not tell of them


class Resolution:
    """One server's knowledge of how the others vote, and theirs of how it does."""

    def __init__(
        self, me: str, layout: Sequence[Replicas], replicas: Mapping[int, Replica]
    ) -> None:
        """Speak for the server `me`, which has these `replicas` of the ranges of `layout`."""
        self._me = me
        self._layout = layout
        self._replicas = replicas

    def others(self, tx: Transaction) -> list[str]:
        """Return the other participants."""
        members = {server for number, _ in tx.ranges for server in self._layout[number]}
        return sorted(members - {self._me})

    def unconfirmed(self, tx: Transaction) -> list[str]:
        """Return which others may still have to hear of a commit of several keys."""
        if tx.request.operation is not Operation.MANY:
            return []
        done = {server for server, said in tx.answers.items() if said.status is Status.DONE}
        return [server for server in self.others(tx) if server not in done]

    # What the others' votes decide.

    def verdict(self, tx: Transaction) -> bool | None:
        """Return whether a prepared transaction is to be committed; None if it is not decided."""
        votes = [self._votes(tx, number) for number, _ in tx.ranges]
        done = any(answer.status is Status.DONE for answer in tx.answers.values())
        if done or all(yes for yes, _ in votes):
            return True
        return False if any(no for _, no in votes) else None

    def _votes(self, tx: Transaction, number: int) -> tuple[bool, bool]:
        """Return whether the range has voted yes for certain, and no for certain."""
        if self._is_alone(number):
            return True, False
        members = self._layout[number]
        said = [tx.answers[server] for server in members if server in tx.answers]
        yes = sum(answer.status is Status.YES for answer in said) + (self._me in members)
        packed = _RANGE_NUMBER.pack(number)
        noes = [answer for answer in said if answer.status is Status.NO]
        no = any(
            answer.reason is not Reason.SYNCING and packed not in _numbers(answer.value)
            for answer in noes
        )
        alone = any(
            answer.reason is Reason.ALONE and packed in _numbers(answer.value) for answer in said
        )
        # A no of one replica of another range can vanish in a crash; a yes of the other one would
        # then count. But one that is coming back, and has no yes now, will never have one.
        enough = self._me in members or len(noes) == len(members)
        return alone or yes == len(members), no and enough

    def _is_alone(self, number: int) -> bool:
        """Return whether this replica decides for the range, its other one having come back."""
        replica = self._replicas.get(number)
        return replica is not None and replica.mode is Mode.GIVING

    # What is said to the others.

    def answer(self, tx: Transaction) -> Message:
        """Return the answer to a question about a transaction that is known."""
        name, operation = tx.name, tx.request.operation
        if tx.state is State.PREPARED:
            numbers = [number for number, _ in tx.ranges if self._is_alone(number)]
            reason = Reason.ALONE if numbers else Reason.NONE
            return Message(Status.YES, name, operation, reason, value=_pack(numbers))
        if tx.state is State.COMMITTED:
            return Message(Status.DONE, name, operation)
        # It says nothing of a range that waits for the very transaction before it can be joined.
        return Message(Status.NO, name, operation, Reason.VETOED, value=_pack(self.joining(tx)))

    def answer_unknown(self, tx: Transaction) -> Message | None:
        """Return the answer about a transaction that is not known; None if it is to be vetoed."""
        if not self._can_say_some(tx):
            return Message(Status.NO, tx.name, tx.request.operation, Reason.SYNCING)
        if self._has_applied(tx.request):
            return Message(Status.DONE, tx.name, tx.request.operation)
        return None

    def _has_applied(self, question: Message) -> bool:
        """Return whether a forgotten transaction of one key was committed here.

        The asking replica still holds its lock on the key, so nothing but this transaction can
        have moved the version on from the one that it met.
        """
        replica = self._replicas.get(question.range)
        if question.operation in _SILENT or replica is None:
            return False
        return replica.table.get(question.key, ABSENT).version > question.version

    def cannot_say(self, tx: Transaction) -> bool:
        """Return whether this server may have known the transaction before it came back."""
        return bool(self.joining(tx))

    def _can_say_some(self, tx: Transaction) -> bool:
        """Return whether it may have known nothing of it in one of its ranges at least."""
        mine = {number for number, _ in tx.ranges if number in self._replicas}
        return not mine or mine > self.joining(tx)

    def joining(self, tx: Transaction) -> set[int]:
        """Return the transaction's ranges in which this server has not come back yet."""
        return {
            number
            for number, _ in tx.ranges
            if number in self._replicas and self._replicas[number].mode is Mode.JOINING
        }


def _pack(numbers: Iterable[int]) -> bytes:
    return b"".join(map(_RANGE_NUMBER.pack, numbers))


def _numbers(packed: bytes) -> set[bytes]:
    size = _RANGE_NUMBER.size
    return {packed[at : at + size] for at in range(0, len(packed), size)}
