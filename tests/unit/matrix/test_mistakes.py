"""The mistakes that are looked for on a cluster, and where."""

import pytest

from faultbuild.mutants import ALL
from matrix.campaign import DURABLE, MEMORY, Batch
from matrix.cells import CUT, KILL_ALL, PROFILES
from matrix.mistakes import SHOWN_BY

OF_THE_PROTOCOL = {  # which a description of it must have each of
    "early no",
    "no roll forward",
    "forgetful veto",
    "read through locks",
    "unlock first",
    "early acknowledgement",
    "any epoch",
    "missing unlock",
}


def test_all_that_the_protocol_names_are_looked_for_and_exist() -> None:
    assert OF_THE_PROTOCOL <= SHOWN_BY.keys() <= ALL.keys()


@pytest.mark.parametrize("batch", SHOWN_BY.values(), ids=SHOWN_BY)
def test_cells_are_those_that_any_lab_and_the_mode_can_have(batch: Batch) -> None:
    assert batch.cells
    assert batch.profile in PROFILES
    faults = {cell.fault for cell in batch.cells}
    assert CUT not in faults
    assert batch.mode in ({DURABLE} if KILL_ALL in faults else {DURABLE, MEMORY})
