"""The plan of the matrix: every message, every party, every fault."""

import itertools

import pytest

from cluster.errors import UsageError
from faultbuild.hook import CLIENT, MOMENTS
from matrix.campaign import DURABLE, MEMORY, Batch, batches
from matrix.cells import (
    BACKUP,
    CUT,
    FAULTS,
    KILL,
    KILL_ALL,
    PAUSE,
    PRIMARY,
    PROFILES,
    Cell,
    cells,
)
from rdht.messages import Status

TWO_PHASES = ("REQUEST", "YES", "NO", "PROCEED", "DONE", "ABORT", "ABORTED")
AMONG_SERVERS = ("RESOLVE", "YES|DONE", "NO", "DONE", "JOIN", "COPY", "JOINED")


@pytest.fixture(params=PROFILES)
def every(request: pytest.FixtureRequest) -> list[Cell]:
    return cells(request.param, durable=True)


def test_every_message_of_two_phases_hits_every_party(every: list[Cell]) -> None:
    hit = {
        (cell.place.status, cell.place.party, cell.fault)
        for cell in every
        if not (cell.client_dies or cell.comes_back)
    }
    parties = (CLIENT, PRIMARY, BACKUP)
    assert hit == set(itertools.product(TWO_PHASES, parties, FAULTS))


def test_every_message_among_servers_hits_both(every: list[Cell]) -> None:
    hit = {
        (cell.place.status, cell.place.party)
        for cell in every
        if cell.client_dies or cell.comes_back
    }
    assert hit == set(itertools.product(AMONG_SERVERS, (PRIMARY, BACKUP)))


def test_whoever_sends_is_hit_before_and_after_and_whoever_gets_it_before_it_acts(
    every: list[Cell],
) -> None:
    for message in {cell.message for cell in every}:
        moments = {cell.place.moment for cell in every if cell.message == message}
        assert moments == set(MOMENTS), message


def test_a_cell_is_there_once_and_its_text_tells_it_from_all_others(every: list[Cell]) -> None:
    assert len({str(cell) for cell in every}) == len(every)
    assert len({(cell.row, cell.fault) for cell in every}) == len(every)


def test_every_message_exists(every: list[Cell]) -> None:
    for cell in every:
        assert set(cell.place.status.split("|")) <= set(Status.__members__)


def test_without_disks_not_all_servers_are_killed() -> None:
    faults = {cell.fault for cell in cells("fast", durable=False)}
    assert faults == {KILL, PAUSE, CUT} == set(FAULTS) - {KILL_ALL}


def listed(found: list[Batch]) -> set[tuple[str, str, str]]:
    return {(one.profile, one.mode, str(cell)) for one in found for cell in one.cells}


@pytest.mark.parametrize("count", [1, 4, 9])
def test_all_cells_are_shared_out_and_each_is_done_once(count: int) -> None:
    found = batches("", count)
    total = sum(
        len(cells(profile, durable=mode == DURABLE))
        for profile in PROFILES
        for mode in (MEMORY, DURABLE)
    )
    assert len(found) >= count
    assert max(len(one.cells) for one in found) <= 80
    assert sum(len(one.cells) for one in found) == len(listed(found)) == total


def test_some_cells_are_chosen_by_their_text() -> None:
    found = batches("fast memory: PROCEED, before it is sent", 1)
    assert listed(found) == {
        ("fast", MEMORY, f"PROCEED, before it is sent: {fault} client")
        for fault in (KILL, PAUSE, CUT)
    }
    with pytest.raises(UsageError, match="in the text of no cell"):
        batches("PROCEED by pigeon", 1)
