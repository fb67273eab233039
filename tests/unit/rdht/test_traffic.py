"""Traffic: counted by kind, added up and taken off, and kept in a file."""

import json

import pytest

from rdht.messages import Status
from rdht.traffic import Traffic, total


def traffic(messages: int) -> Traffic:
    one = Traffic(segments_sent=messages, segments_received=messages, waited_s=messages / 4)
    one.sent[Status.REQUEST] = [messages, 100 * messages]
    one.sent[Status.PROCEED] = [1, 50]
    one.received[Status.YES] = [messages, 10 * messages]
    return one


def test_a_sum_has_every_kind_and_leaves_its_parts_alone() -> None:
    parts = [traffic(2), traffic(3)]
    both = total(parts)
    assert parts == [traffic(2), traffic(3)]
    assert both.sent == {Status.REQUEST: [5, 500], Status.PROCEED: [2, 100]}
    assert both.received == {Status.YES: [5, 50]}
    assert (both.segments_sent, both.segments_received, both.waited_s) == (5, 5, 1.25)
    assert (both.messages_sent, both.bytes_sent) == (7, 600)
    assert (both.messages_received, both.bytes_received) == (5, 50)


def test_what_was_before_is_taken_off() -> None:
    both = total([traffic(2), traffic(3)])
    both.add(traffic(2), -1)
    assert both == traffic(3)


def test_traffic_survives_its_file() -> None:
    assert Traffic.from_json(json.loads(json.dumps(traffic(7).to_json()))) == traffic(7)


def test_a_kind_of_message_that_there_is_not_is_no_traffic() -> None:
    with pytest.raises(KeyError):
        Traffic.from_json({**Traffic().to_json(), "sent": {"SHOUT": [1, 1]}})
