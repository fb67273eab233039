"""Presets: what each chooses, and that nothing typed is overruled in silence."""

import pytest

from cluster import presets
from cluster.errors import UsageError
from cluster.options import ClientOptions

COUNTS = {"servers": 0, "clients": 0, "workers": 1}


@pytest.mark.parametrize(
    ("name", "counts", "threads", "trace"),
    [
        ("local", (2, 1, 1), 1, True),
        ("one-thread", (2, 2, 1), 1, True),
        ("threads", (2, 2, 8), 8, True),
        ("full", (0, 0, 8), 8, False),
    ],
)
def test_a_preset_is_one_of_the_originals_set_ups(
    name: str, counts: tuple[int, int, int], threads: int, *, trace: bool
) -> None:
    options, chosen = presets.applied(name, ClientOptions(key_size=1, seed=7), COUNTS)
    assert tuple(chosen[option] for option in COUNTS) == counts
    assert (options.threads, options.trace) == (threads, trace)
    assert (options.key_size, options.seed) == (1, 7)
    assert bool(options.commands) == trace  # few enough that each line can be read


def test_an_option_that_a_preset_chooses_is_refused() -> None:
    for options, counts, option in (
        (ClientOptions(threads=3), COUNTS, "threads"),
        (ClientOptions(), {**COUNTS, "workers": 2}, "workers"),
        (ClientOptions(trace=True), COUNTS, "trace"),
    ):
        with pytest.raises(UsageError, match=f"--preset local chooses --{option} itself"):
            presets.applied("local", options, counts)


def test_a_duration_is_refused_where_a_preset_counts_commands() -> None:
    with pytest.raises(UsageError, match="leave --duration out"):
        presets.applied("local", ClientOptions(duration=5.0), COUNTS)
    assert presets.applied("full", ClientOptions(duration=5.0), COUNTS)[0].duration == 5.0


def test_a_preset_that_there_is_not_is_named_with_those_that_are() -> None:
    with pytest.raises(
        UsageError, match="--preset two is none of local, one-thread, threads, full"
    ):
        presets.applied("two", ClientOptions(), COUNTS)
