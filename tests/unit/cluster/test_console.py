"""What a person sees, and what --json leaves on stdout."""

import json
from typing import Any

import pytest

from cluster.console import (
    Screen,
    print_json,
    show_compared,
    show_comparison,
    show_summary,
    show_sweep,
)

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def cells(line: str) -> list[str]:
    return line.split()


def test_a_table_shows_a_row_a_host(capsys: Capture) -> None:
    Screen().table(["host", "keys"], [["pi1", 12345], ["pi2", 7]])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert [cells(line) for line in lines if "─" not in line] == [
        ["host", "keys"],
        ["pi1", "12,345"],
        ["pi2", "7"],
    ]
    assert lines[-2].rstrip().endswith("12,345")
    assert len(lines[-1].rstrip()) == len(lines[-2].rstrip()), "numbers stand on the right"


def test_columns_without_any_value_are_named_below(capsys: Capture) -> None:
    columns = ["host", "governor", "throttled", "keys"]
    Screen().table(columns, [["pi1", None, None, None], ["pi2", None, None, 5]])
    out = capsys.readouterr().out
    assert "not available: governor, throttled" in out
    lines = [cells(line) for line in out.splitlines() if line.strip() and "─" not in line]
    assert lines[0] == ["host", "keys"]
    assert lines[1] == ["pi1", "-"]
    assert lines[2] == ["pi2", "5"]


def test_a_zero_an_empty_text_and_a_no_are_values(capsys: Capture) -> None:
    Screen().table(["zero", "text", "truth"], [[0, "", False]])
    out = capsys.readouterr().out
    assert "not available" not in out
    assert ["0", "no"] in [cells(line) for line in out.splitlines()]


def test_a_table_without_rows_still_has_its_columns(capsys: Capture) -> None:
    Screen().table(["key", "servers"], [])
    out = capsys.readouterr().out
    assert "key" in out
    assert "servers" in out
    assert "not available" not in out


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1234567, "1,234,567"), (1234.56, "1,234.6"), (True, "yes"), (False, "no"), ("x", "x")],
)
def test_values_are_shown_as_a_person_reads_them(
    capsys: Capture, value: object, shown: str
) -> None:
    Screen().table(["value"], [[value]])
    assert shown in capsys.readouterr().out.split()


TEXTS = ["[bold]no markup[/]", "[/] [red", "list[int]", "fe80::a:b:1"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("how", ["title", "note", "warn", "plan", "log_line", "table"])
def test_a_text_is_shown_as_it_is(capsys: Capture, how: str, text: str) -> None:
    screen = Screen()
    match how:
        case "plan":
            screen.plan("stage", "pi1", text)
        case "log_line":
            screen.log_line(["pi1"], "pi1", "server", text)
        case "table":
            screen.table(["text"], [[text]])
        case _:
            getattr(screen, how)(text)
    assert text in capsys.readouterr().out


def test_a_long_line_of_a_log_stays_one_line(capsys: Capture) -> None:
    line = "word " * 200 + "end"
    Screen().log_line(["pi1", "pi2"], "pi2", "client.0", line)
    (shown,) = capsys.readouterr().out.splitlines()
    assert shown.endswith(line)
    assert shown.split()[:2] == ["pi2", "client.0"]


def use_everything(screen: Screen) -> None:
    screen.title("cluster lab")
    screen.note("a note")
    screen.warn("a warning")
    screen.plan("stage", "pi1", "something")
    screen.table(["a", "b"], [[1, None]])
    screen.log_line(["pi1"], "pi1", "server", "a line")
    with screen.transfer("push", {"pi1": 10}) as sent:
        sent("pi1", 10)
    with screen.running(["pi1"], 10.0) as view:
        view.update("pi1", [progress(1.0, 10)])


def progress(elapsed_s: float, commands: int) -> dict[str, Any]:
    return {
        "elapsed_s": elapsed_s,
        "commands": commands,
        "conflicts": 2,
        "latency_us_p99": 1500,
    }


def test_with_json_only_the_document_is_on_stdout(capsys: Capture) -> None:
    document = {"text": "é [bold] :x:", "number": 1}
    use_everything(Screen(json=True))
    print_json(json.dumps(document))
    captured = capsys.readouterr()
    assert json.loads(captured.out) == document
    for text in ("cluster lab", "a note", "a warning", "something", "not available: b", "a line"):
        assert text in captured.err


def test_without_json_nothing_is_on_stderr(capsys: Capture) -> None:
    use_everything(Screen())
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "cluster lab" in captured.out


def test_no_bar_moves_where_there_is_no_terminal(capsys: Capture) -> None:
    screen = Screen()
    with screen.transfer("push", {"pi1": 10}) as sent:
        sent("pi1", 10)
    with screen.running(["pi1"], None) as view:
        view.update("pi1", [progress(1.0, 10)])
    assert capsys.readouterr().out == ""


def test_the_rate_shown_is_that_since_the_last_report() -> None:
    with Screen().running(["pi1"], 10.0) as view:
        shown = []
        for clients in (
            [],
            [progress(1.0, 1000), progress(1.0, 500)],
            [progress(3.0, 3000), progress(3.0, 500)],
            [progress(3.0, 3000), progress(3.0, 500)],
        ):
            view.update("pi1", clients)
            shown.append(view._progress.tasks[0].fields["figures"].split())
    rest = ["commands/s", "4", "conflicts", "p99", "1.5", "ms"]
    assert shown[0] == ["starting"]
    assert shown[1] == ["1,500", *rest]
    assert shown[2] == ["1,000", *rest]
    assert shown[3] == shown[2]


def test_clients_that_have_no_latency_yet_are_shown_all_the_same() -> None:
    with Screen().running(["pi1"], None) as view:
        view.update("pi1", [{**progress(1.0, 0), "latency_us_p99": None}])
        assert "p99" in view._progress.tasks[0].fields["figures"]


@pytest.fixture
def summary() -> dict[str, Any]:
    latency = {"p50": 400, "p90": 600, "p99": 900, "p999": 1200, "max": 5000}
    return {
        "threads": 16,
        "commands": 12345,
        "throughput_per_s": 1234.5,
        "latency_us": latency,
        "conflicts": 3,
        "aborted": 0,
        "unknown": 1,
        "servers": 2,
        "clients": 2,
        "connections": 32,
        "run": "20261123-141502-shelf-3fa9",
        "messages": 98760,
        "profile": "classic",
        "window": 1,
        "duration_s": 10.0,
        "workload": "ycsb-a",
        "warmup_s": 1.0,
        "target_rate_per_s": None,
        "busiest": {"host": "pi2", "cpu_busy": 0.514, "process": None},
        "limit": "the link of pi2, outward",
        "bound": {"throughput_per_s": 1300.4, "share": 0.9493, "links": []},
        "flaws": [],
        "replicas": {"keys": 99, "differing": []},
        "verdict": {
            "verdict": "ok",
            "reasons": [],
            "counts": {"commands": 12_500, "keys": 99, "unknown": 1},
            "clock_error_s": 0.0004,
            "sample": 1,
        },
    }


@pytest.fixture
def host_row(summary: dict[str, Any]) -> dict[str, Any]:
    return {
        **{
            name: summary[name]
            for name in ("threads", "commands", "conflicts", "aborted", "unknown")
        },
        "host": "pi1",
        "throughput_per_s": 1240.0,
        **{f"latency_us_{name}": value for name, value in summary["latency_us"].items()},
    }


def test_a_summary_has_a_row_a_host_and_one_for_the_cluster(
    capsys: Capture, summary: dict[str, Any], host_row: dict[str, Any]
) -> None:
    show_summary(Screen(), summary, [host_row])
    out = capsys.readouterr().out
    rows = {words[0]: words for line in out.splitlines() if len(words := line.split()) == 12}
    assert rows["pi1"][1:4] == ["16", "12,345", "1,240.0"]
    assert rows["cluster"][1:] == [
        *("16", "12,345", "1,234.5", "400", "600", "900", "1,200", "5,000", "3", "0", "1")
    ]
    assert "2 servers · 2 clients · 16 threads · 32 connections" in out
    assert "ycsb-a workload · classic profile, window 1" in out
    assert "10.0 s after 1 s of warm-up" in out
    assert "closed loop" in out
    assert "busiest host: pi2, 51% of its processor" in out
    assert "limit: the link of pi2, outward" in out
    assert "94.9% of the 1,300 commands/s that the links would allow" in out
    assert (
        "verdict: ok; 12,500 commands on 99 keys judged, 1 of them of unknown outcome, by clocks "
        "that are known to 0.4 ms; 99 keys, equal on both replicas"
    ) in " ".join(out.split())


def test_a_summary_says_what_is_wrong_with_the_run(
    capsys: Capture, summary: dict[str, Any], host_row: dict[str, Any]
) -> None:
    summary["flaws"] = ["pi1: client pi1: a defect", "pi2 stands out, its link"]
    summary["bound"] = None
    summary["replicas"]["differing"] = [{"key": "a"}]
    summary["verdict"] |= {"verdict": "violated", "reasons": ["key a is not linearizable"]}
    show_summary(Screen(), summary, [host_row])
    out = capsys.readouterr().out
    assert "pi1: client pi1: a defect" in out
    assert "pi2 stands out, its link" in out
    assert "1 DIFFER" in out
    assert "verdict: violated" in out
    assert "key a is not linearizable" in out
    assert "would allow" not in out


def test_a_summary_says_of_a_fixed_rate_what_latencies_are_counted_from(
    capsys: Capture, summary: dict[str, Any], host_row: dict[str, Any]
) -> None:
    summary["target_rate_per_s"] = 2000.0
    show_summary(Screen(), summary, [host_row])
    out = " ".join(capsys.readouterr().out.split())
    assert "fixed rate of 2,000 commands/s" in out
    assert "latencies are from the intended start" in out
    assert "closed loop" not in out


def test_a_run_whose_replicas_were_not_compared_says_nothing_of_them(
    capsys: Capture, summary: dict[str, Any], host_row: dict[str, Any]
) -> None:
    summary["replicas"] = None
    summary["verdict"] |= {"verdict": "unknown", "counts": {}}
    show_summary(Screen(), summary, [host_row])
    assert "replicas" not in capsys.readouterr().out


def test_a_verdict_on_a_sample_says_so(
    capsys: Capture, summary: dict[str, Any], host_row: dict[str, Any]
) -> None:
    show_summary(Screen(), summary, [host_row])
    assert "sample" not in capsys.readouterr().out
    summary["verdict"]["sample"] = 16
    show_summary(Screen(), summary, [host_row])
    assert "judged, a sample of one key in 16" in " ".join(capsys.readouterr().out.split())


def test_runs_stand_side_by_side_within_100_columns(
    capsys: Capture, summary: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    latency = {**summary["latency_us"], "p50": 127_263, "p99": 1_150_527}
    changed = {"profile": "fast", "window": 1023, "throughput_per_s": 123_450.0, "commands": 24_690}
    changed |= {"conflicts": 1_234_567, "latency_us": latency}
    replicas = {"keys": 7, "differing": [{"key": "a"}]}
    screen = Screen()
    screen.console.width = 100
    show_comparison(screen, [summary, {**summary, **changed, "replicas": replicas}])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.split()[:1] in (["classic"], ["fast"])]
    assert rows == [
        ["classic", "1", "1,234.5", "1.0", "400", "900", "8.0", "3"],
        ["fast", "1,023", "123,450.0", "100.0", "127,263", "1,150,527", "4.0", "1,234,567"],
    ]
    assert max(map(len, lines)) <= 100
    assert (
        "logs/20261123-141502-shelf-3fa9: classic profile, window 1: ok; 99 keys, equal"
        in lines[-2]
    )
    assert lines[-1].endswith("fast profile, window 1023: ok; 7 keys, 1 DIFFER")


def test_a_run_in_which_nothing_was_done_stands_beside_others(
    capsys: Capture, summary: dict[str, Any]
) -> None:
    nothing: dict[str, Any] = {"throughput_per_s": 0.0, "commands": 0, "replicas": None}
    nothing["verdict"] = {**summary["verdict"], "verdict": "unknown"}
    latency = dict.fromkeys(summary["latency_us"])
    show_comparison(Screen(), [{**summary, **nothing, "latency_us": latency}, summary])
    assert "window 1: unknown\n" in capsys.readouterr().out


@pytest.fixture
def compared(summary: dict[str, Any]) -> dict[str, Any]:
    row = {"a": 1000.0, "b": 1500.0, "ratio": 1.5, "interval": (1.4, 1.61234)}
    untold = {"a": 900, "b": None, "ratio": None, "interval": None}
    return {
        "a": [summary],
        "b": [{**summary, "run": "other", "flaws": ["it did not keep up"]}],
        "repeated": False,
        "figures": {"throughput_per_s": row, "latency_us_p50": row, "latency_us_p99": untold},
        "decided_by": "throughput_per_s",
        "verdict": "B is faster",
        "differs": {"window": (1, None)},
        "objections": ["no repeats"],
    }


def test_a_comparison_has_a_row_a_figure_and_all_that_makes_it_doubtful(
    capsys: Capture, compared: dict[str, Any]
) -> None:
    show_compared(Screen(), compared)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    words = [line.split() for line in lines]
    assert ["commands/s", "1,000.0", "1,500.0", "1.500", "1.400", "to", "1.612"] in words
    assert ["p99", "µs", "900", "-", "-", "-"] in words
    assert "B is faster: B / A of commands/s is 1.400 to 1.612" in lines
    assert any(line.startswith("one run of A and B: how much runs differ") for line in lines)
    assert "compared all the same: no repeats" in lines
    assert "other: it did not keep up" in lines


def test_a_comparison_by_latency_says_why_and_what_it_cannot_tell(
    capsys: Capture, compared: dict[str, Any]
) -> None:
    compared |= {"decided_by": "latency_us_p99", "verdict": "no difference shown", "repeated": True}
    show_compared(Screen(), compared)
    out = capsys.readouterr().out
    assert "no difference shown: B / A of p99 µs is not known" in out
    assert "at a fixed rate the rate gives the throughput" in out
    assert "by themselves" not in out


@pytest.fixture
def point() -> dict[str, Any]:
    return {
        "key_size": 4,
        "get_ratio": 0.55,
        "durable": True,
        "runs": 3,
        "throughput_per_s": 1234.5,
        "throughput_low": 1200.0,
        "throughput_high": 1269.0,
        "latency_us_p50": 400,
        "latency_us_p99": 1900,
        "conflicts_share": 0.01649,
        "bound_share": 0.4567,
        "limit": "nothing was full: each thread waits for its answers",
        "doubtful": 0,
    }


def test_a_sweep_has_a_row_a_point(capsys: Capture, point: dict[str, Any]) -> None:
    other = {"get_ratio": 0.6, "durable": False, "limit": "the processor of pi1", "doubtful": 2}
    once = {"runs": 1, "throughput_low": None, "throughput_high": None, "bound_share": None}
    show_sweep(Screen(), ["get_ratio", "durable"], [point, {**point, **other, **once}])
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines() if line.strip() and "─" not in line]
    figures = ["400", "1,900", "0.016"]
    assert lines[:3] == [
        [
            *("get", "ratio", "durable", "runs", "commands/s", "±", "p50", "µs", "p99", "µs"),
            *("conflicts/command", "of", "the", "bound", "limit"),
        ],
        ["0.55", "yes", "3", "1,234.5", "34.5", *figures, "46%", "nothing", "was", "full"],
        ["0.6", "no", "1", "1,234.5", "-", *figures, "-", "the", "processor", "of", "pi1"],
    ]
    assert "±: half of the 95 % interval of the mean of all runs of a point" in out
    assert "2 runs are doubtful" in out


def test_what_no_point_of_a_sweep_has_is_said_once(capsys: Capture, point: dict[str, Any]) -> None:
    show_sweep(Screen(), ["key_size"], [{**point, "bound_share": None}] * 2)
    out = capsys.readouterr().out
    assert "not available: of the bound" in out
    assert "doubtful" not in out
    assert "ratio" not in out, "only what varies"
