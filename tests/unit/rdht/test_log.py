import io
import logging
import re
import sys
from collections.abc import Iterator

import pytest

from rdht import log
from rdht.messages import Message, Name, Operation, Status


@pytest.fixture
def restored() -> Iterator[None]:
    """Leave the package's logger as it was."""
    logger = logging.getLogger("rdht")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    logger.handlers, logger.level, logger.propagate = before


def test_a_line_begins_with_the_time_in_utc_and_names_the_process(
    restored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    for _ in range(2):  # twice makes no line appear twice
        logger = log.set_up("server s0")
    logger.info("linked to %s", "s1")
    logger.debug("too much")
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
    assert re.fullmatch(rf"{time} INFO server s0: linked to s1\n", written.getvalue())


def test_lines_of_many_hosts_merge_by_sorting(
    restored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    logger = log.set_up("s0")
    for number in range(5):
        record = logger.makeRecord("rdht", logging.INFO, "", 0, str(number), (), None)
        record.created = 1e9 + number * 0.25
        logger.handle(record)
    lines = written.getvalue().splitlines()
    assert lines == sorted(lines)
    assert lines[1].startswith("2001-09-09T01:46:40.250000Z")


def test_a_traced_message_has_all_that_the_originals_line_had() -> None:
    name = Name(9, 3, 2)
    request = Message(Status.REQUEST, name, Operation.PUT, key=b"k\xff", value=b"a\nb")
    line = log.trace_line("s1", "c1", 4, request, Status.DONE_NOTHING, 17)
    assert line == (
        "trace server=s1 client=c1 thread=4 key='k\\\\xff' value='a\\nb' command=put "
        "status=9:DONE_NOTHING order=17 transaction=3.2"
    )
