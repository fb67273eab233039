"""A fault build on real links: failures exactly at a message, and a mistake made on purpose."""

import pytest

from tests.e2e.checkout import Checkout
from tests.needs import FAULTS, NETNS

pytestmark = [
    NETNS,
    FAULTS,
    pytest.mark.parametrize("checkout", ["netns"], indirect=True, scope="session"),
]


def current(checkout: Checkout) -> set[str]:
    """Return what is deployed on the hosts."""
    return {row["current"] for row in checkout.json("releases").values()}


def test_cells_of_the_matrix_are_kept_and_no_fault_build_stays(idle: Checkout) -> None:
    told = idle.json("fault.matrix", "--only", "fast memory: PROCEED, before it is sent")
    assert [(cell["fault"], cell["outcome"], cell["why"]) for cell in told["cells"]] == [
        ("kill", "kept", ""),
        ("pause", "kept", ""),
        ("cut", "kept", ""),
    ]
    assert not any(name.startswith("fault-") for name in current(idle))


def test_a_mistake_is_caught_and_does_not_stay_either(idle: Checkout) -> None:
    (row,) = idle.json("fault.mutants", "--only", "no roll forward")["mutants"]
    assert row["caught"]
    assert "is not linearizable" in row["why"]
    assert not any(name.startswith("fault-") for name in current(idle))
