import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdht import records
from rdht.errors import ConfigurationError
from rdht.messages import Operation, Status
from rdht.records import ClientRecord, Histogram, Second, ThreadRecord
from rdht.traffic import Traffic

LATENCIES = st.one_of(st.integers(0, 300), st.integers(0, 10**4), st.integers(0, 10**9))
SAMPLES = st.lists(LATENCIES, min_size=1, max_size=200)
PERCENTS = st.sampled_from(["0", "1", "25", "50", "90", "95", "99", "99.9", "99.99", "100"])


def histogram_of(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


def percentile_of(values: list[int], percent: str) -> int:
    """Return the smallest of the values that `percent` of all do not exceed."""
    needed = math.ceil(Fraction(percent) / 100 * len(values))
    return sorted(values)[max(0, needed - 1)]


@given(SAMPLES, PERCENTS)
def test_a_percentile_is_within_a_128th_above_that_of_the_raw_values(
    values: list[int], percent: str
) -> None:
    exact = percentile_of(values, percent)
    found = histogram_of(values).percentile(float(percent))
    assert found is not None
    assert exact <= found <= exact + exact // 128


@given(st.lists(st.integers(0, 255), min_size=1, max_size=200), PERCENTS)
def test_a_percentile_below_256_us_is_exact(values: list[int], percent: str) -> None:
    assert histogram_of(values).percentile(float(percent)) == percentile_of(values, percent)


@pytest.mark.parametrize("percent", ["50", "95", "99", "99.9"])
@pytest.mark.parametrize("count", [1, 10, 100, 1000, 3000])
def test_a_percentile_counts_no_value_too_many(percent: str, count: int) -> None:
    # Each value stands in a bucket of its own, as far as that goes.
    values = [250 - count + number if count < 200 else number // 20 for number in range(count)]
    values[-1] = 10**6
    found = histogram_of(values).percentile(float(percent))
    assert found == percentile_of(values, percent)


def test_99_9_percent_of_a_thousand_are_all_but_the_highest() -> None:
    assert histogram_of([1] * 999 + [10**6]).percentile(99.9) == 1


@given(SAMPLES)
def test_a_histogram_knows_the_highest_value_and_the_count(values: list[int]) -> None:
    histogram = histogram_of(values)
    assert histogram.max_us == max(values)
    assert histogram.total == len(values)
    assert histogram.percentile(100) == max(values)


@given(SAMPLES, SAMPLES)
def test_merging_is_as_good_as_counting_together(first: list[int], second: list[int]) -> None:
    merged = histogram_of(first)
    merged.merge(histogram_of(second))
    together = histogram_of(first + second)
    assert (merged.counts, merged.max_us) == (together.counts, together.max_us)


@given(SAMPLES)
def test_a_histogram_survives_its_document(values: list[int]) -> None:
    histogram = histogram_of(values)
    read = Histogram.from_json(json.loads(json.dumps(histogram.to_json())))
    assert (read.counts, read.max_us) == (histogram.counts, histogram.max_us)


def test_an_empty_histogram_has_no_percentile() -> None:
    assert Histogram().percentile(50) is None
    assert Histogram().total == 0


@given(st.integers(0, 2**40))
def test_buckets_follow_each_other_without_gap_or_overlap(value: int) -> None:
    (bucket,) = histogram_of([value]).counts
    (following,) = histogram_of([value + 1]).counts
    assert following - bucket in {0, 1}
    upper = Histogram().upper_us(bucket)
    assert upper >= value
    assert (following == bucket) == (upper > value)


def test_the_merged_values_are_not_shared_with_their_source() -> None:
    source = histogram_of([1])
    copy = Histogram(source.counts, source.max_us)
    copy.add(1)
    assert source.total == 1


def test_a_thread_counts_each_outcome_under_its_name() -> None:
    record = ThreadRecord(3)
    record.count_done(Operation.GET, 0.05, 0.000_100, found=True)
    record.count_done(Operation.GET, 0.06, 0.000_200, found=False)
    record.count_done(Operation.ADD, 0.27, 0.000_300, found=True)
    record.count_done(Operation.PUT, 0.28, 0.000_301, found=True)
    record.count_done(Operation.ADD, 0.29, 0.000_302, found=False)
    record.count_failure(Operation.GET, unknown=False)
    record.count_failure(Operation.ADD, unknown=True)
    record.count_failure(Operation.ADD, unknown=True)
    assert (record.gets, record.puts, record.commands) == (3, 5, 8)
    assert (record.succeeded, record.not_found, record.already_there) == (3, 1, 1)
    assert (record.aborted, record.unknown) == (1, 2)
    assert record.completed == [2, 0, 3]
    assert (record.latency_get.total, record.latency_put.total) == (2, 3)
    assert record.latency().total == 5
    assert record.latency().max_us == 302


def make_record() -> ClientRecord:
    threads = [ThreadRecord(0), ThreadRecord(1, conflicts=4, connections=2)]
    threads[0].count_done(Operation.GET, 0.5, 0.001, found=True)
    threads[1].count_done(Operation.PUT, 1.5, 0.002, found=True)
    threads[1].traffic["s1"] = traffic = Traffic(
        segments_sent=3, segments_received=2, waited_s=0.25
    )
    traffic.sent[Status.REQUEST] = [5, 1280]
    traffic.received[Status.YES] = [4, 1024]
    second = Second(1.0, 2, 3, 4, 5, threads[1].latency())
    return ClientRecord(
        "c1", "classic", {"seed": 1}, 1000.5, False, {"s1": "closed"}, ["odd"], threads, [second]
    )


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    record = make_record()
    path = tmp_path / "c1.json"
    record.write(path)
    read = records.read(path)
    assert len(read.threads) == 2
    for ours, theirs in zip(record.threads, read.threads, strict=True):
        for name in ("latency_get", "latency_put"):
            assert getattr(ours, name).to_json() == getattr(theirs, name).to_json()
            setattr(theirs, name, getattr(ours, name))
    assert read.seconds[0].latency.to_json() == record.seconds[0].latency.to_json()
    read.seconds[0].latency = record.seconds[0].latency
    assert read == record


def test_writing_replaces_the_file_as_a_whole_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "c1.json"
    path.write_text("x" * 100_000, encoding="utf-8")
    make_record().write(path)
    assert list(tmp_path.iterdir()) == [path]
    assert json.loads(path.read_text(encoding="utf-8"))["format"] == 3


def test_a_file_that_cannot_be_written_as_json_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "c1.json"
    records.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        records.write_json(path, {"new": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"old": 1}


def document() -> dict[str, object]:
    histogram: dict[str, object] = {"max_us": 0, "counts": {}}
    thread = {
        "thread": 0,
        "latency_get": histogram,
        "latency_put": histogram,
        "traffic": {},
    }
    return {
        "format": 3,
        "client": "c1",
        "profile": "classic",
        "parameters": {},
        "started_unix_s": 1.0,
        "interrupted": False,
        "lost": {},
        "errors": [],
        "threads": [thread],
        "seconds": [],
    }


def test_the_document_that_the_wrong_ones_come_from_is_right(tmp_path: Path) -> None:
    path = tmp_path / "c1.json"
    records.write_json(path, document())
    assert records.read(path).threads[0].commands == 0


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "1",
        '"text"',
        "{}",
        json.dumps({**document(), "threads": None}),
        json.dumps({**document(), "threads": [1]}),
        json.dumps({**document(), "threads": [{"thread": 0}]}),
        json.dumps({**document(), "surplus": 1}),
        json.dumps({key: value for key, value in document().items() if key != "lost"}),
    ],
)
def test_a_file_that_is_no_record_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "c1.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"c1\.json: not a result file"):
        records.read(path)


def test_a_record_of_another_format_is_named_with_ours(tmp_path: Path) -> None:
    path = tmp_path / "c1.json"
    records.write_json(path, {**document(), "format": 2})
    with pytest.raises(ConfigurationError, match=r"c1\.json: not a result file of format 3"):
        records.read(path)
