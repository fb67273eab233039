"""What a person sees: tables, progress bars, the merged log. With --json all of it on stderr."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from rich import box
from rich.console import Console, JustifyMethod
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.prompt import Confirm, Prompt
from rich.table import Table

from cluster.errors import UsageError

_FIGURES = {
    "throughput_per_s": "commands/s",
    "latency_us_p50": "p50 µs",
    "latency_us_p99": "p99 µs",
}
_OK = "ok"  # a verdict
_SOAK_ROWS = 15  # of those that have ended
_FILE_COLUMNS = 160  # where there is no terminal to fit
_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")


class Screen:
    """The terminal of one task."""

    def __init__(self, *, json: bool = False) -> None:
        """Write to stdout, or with `json` leave that to one document."""
        self.json = json
        self.planning = False  # on a dry run: nothing that is told has happened
        self.console = Console(stderr=json, highlight=False, emoji=False)
        if not self.console.is_terminal:
            self.console.width = _FILE_COLUMNS

    def title(self, text: str) -> None:
        """Say which cluster a task acts on."""
        self.console.print(f"[bold]{escape(text)}[/]")

    def note(self, text: str) -> None:
        """Say one thing."""
        self.console.print(escape(text))

    def done(self, text: str) -> None:
        """Say what has been reached, unless this is a dry run."""
        if not self.planning:
            self.note(text)

    def warn(self, text: str) -> None:
        """Say one thing that is not as it should be."""
        self.console.print(f"[yellow]{escape(text)}[/]")

    def confirm(self, question: str, instead: str) -> bool:
        """Ask for yes or no; UsageError where nobody can answer, with what to type `instead`."""
        if not sys.stdin.isatty():
            why = f"{question} There is no terminal to ask on: {instead}"
            raise UsageError(why)
        return Confirm.ask(escape(question), console=self.console, default=False)

    def ask_password(self, prompt: str, instead: str) -> str:
        """Ask for a password, which is not shown; UsageError as for `confirm`."""
        if not sys.stdin.isatty():
            why = f"{prompt}: there is no terminal to ask on: {instead}"
            raise UsageError(why)
        return Prompt.ask(escape(prompt), console=self.console, password=True)

    def plan(self, step: str, host: str, text: str) -> None:
        """Say what a step would run on a host."""
        self.console.print(
            f"[dim]would[/] {escape(step)} on [bold]{host}[/]: {escape(text)}", soft_wrap=True
        )

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Show rows; numbers stand on the right, columns without any value are named below."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        shown, empty = [], []
        for index, column in enumerate(columns):
            values = [row[index] for row in rows if row[index] is not None]
            if not values and rows:
                empty.append(column)
                continue
            numeric = all(isinstance(value, int | float) for value in values)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
            shown.append(index)
        for row in rows:
            table.add_row(*(escape(_cell(row[index])) for index in shown))
        self.console.print(table)
        if empty:
            self.console.print(f"[dim]not available: {', '.join(empty)}[/]")

    @contextmanager
    def transfer(self, what: str, sizes: dict[str, int]) -> Iterator[Callable[[str, int], None]]:
        """Show a bar a host while bytes move; yields a function to call with host and size."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        with self._progress(*columns) as progress:
            tasks = {
                host: progress.add_task(f"{what} {host}", total=size)
                for host, size in sizes.items()
            }
            yield lambda host, size: progress.advance(tasks[host], size)

    @contextmanager
    def counting(self, total: int) -> Iterator[Callable[[], None]]:
        """Show how many of so many are done; yields a function to call with each one's end."""
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with self._progress(*columns) as progress:
            task = progress.add_task("", total=total)
            yield lambda: progress.advance(task)

    @contextmanager
    def running(self, hosts: Sequence[str], duration_s: float | None) -> Iterator["RunView"]:
        """Show a line a host while clients run."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        with self._progress(*columns) as progress:
            yield RunView(progress, hosts, duration_s)

    @contextmanager
    def soaking(self, hours: float) -> Iterator["SoakView"]:
        """Show a line a run of many; without a terminal, as each has ended."""
        view = SoakView(self, hours)
        if not self.console.is_terminal:
            yield view
            return
        with Live(get_renderable=view.table, console=self.console, refresh_per_second=2):
            yield view

    def _progress(self, *columns: ProgressColumn) -> Progress:
        quiet = not self.console.is_terminal
        return Progress(*columns, console=self.console, transient=True, disable=quiet)

    def log_line(self, hosts: Sequence[str], host: str, log: str, line: str) -> None:
        """Show a line of a host's log in the host's colour."""
        colour = _COLOURS[list(hosts).index(host) % len(_COLOURS)]
        self.console.print(
            f"[{colour}]{host:>5} {log:<8}[/] {escape(_printable(line))}", soft_wrap=True
        )


class RunView:
    """The progress of a run, a line a host."""

    def __init__(self, progress: Progress, hosts: Sequence[str], duration_s: float | None) -> None:
        """Show the hosts; a bar fills in `duration_s`, or pulses if that is None."""
        self.watcher: Callable[[str, list[dict[str, Any]]], None] | None = None
        self._progress = progress
        self._last: dict[str, tuple[float, int]] = {}
        self._tasks = {
            host: progress.add_task(host, total=duration_s, figures="starting") for host in hosts
        }

    def update(self, host: str, clients: list[dict[str, Any]]) -> None:
        """Show what a host's clients report: totals so far, of which the rate is made."""
        if not clients:
            return
        if self.watcher:
            self.watcher(host, clients)
        elapsed_s = max(client["elapsed_s"] for client in clients)
        commands = sum(client["commands"] for client in clients)
        conflicts = sum(client["conflicts"] for client in clients)
        p99_ms = max(client["latency_us_p99"] or 0 for client in clients) / 1000
        last_s, last_commands = self._last.get(host, (0.0, 0))
        if elapsed_s > last_s:
            self._last[host] = (elapsed_s, commands)
            rate = (commands - last_commands) / (elapsed_s - last_s)
            figures = f"{rate:>8,.0f} commands/s  {conflicts:>6,} conflicts  p99 {p99_ms:>7.1f} ms"
            self._progress.update(self._tasks[host], completed=elapsed_s, figures=figures)


class LogScreen(Screen):
    """A screen that nobody looks at: all that is said goes to a file, and progress to `watcher`."""

    def __init__(self, file: IO[str]) -> None:
        """Write to the file."""
        super().__init__()
        self.console = Console(file=file, width=_FILE_COLUMNS, highlight=False, emoji=False)
        self.watcher: Callable[[str, list[dict[str, Any]]], None] | None = None

    @contextmanager
    def running(self, hosts: Sequence[str], duration_s: float | None) -> Iterator["RunView"]:
        """Tell the watcher what each host's clients report."""
        with super().running(hosts, duration_s) as view:
            view.watcher = self.watcher
            yield view


class SoakView:
    """Runs one after the other: a line each, the one that goes on last."""

    _COLUMNS = ("run", "seed", "commands", "unknown", "faults", "slowest back s", "verdict")

    def __init__(self, screen: Screen, hours: float) -> None:
        """Show how much of the time is over."""
        self._screen = screen
        self._hours = hours
        self._began_s = time.monotonic()
        self._rows: list[list[object]] = []
        self._kinds: Counter[str] = Counter()
        self._seed: int | None = None
        self._made: Counter[str] = Counter()
        self._commands: dict[str, int] = {}

    def begin(self, watched: LogScreen, seed: int | None, made: Counter[str]) -> None:
        """Show a run that begins, with the faults that are counted in `made`."""
        self._seed, self._made, self._commands = seed, made, {}
        watched.watcher = self._update

    def _update(self, host: str, clients: list[dict[str, Any]]) -> None:
        self._commands[host] = sum(client["commands"] for client in clients)

    def end(self, row: dict[str, Any]) -> None:
        """Show a run that has ended."""
        faults = sum(row["faults"].values())
        figures = [row[name] for name in ("run", "seed", "commands", "unknown")]
        self._rows.append([*figures, faults, row["worst_recovery_s"], row["verdict"]])
        self._kinds.update(row["faults"])
        self._seed = None
        if not self._screen.console.is_terminal:
            told = zip(self._COLUMNS, self._rows[-1], strict=True)
            self._screen.note(" · ".join(f"{name} {_cell(value)}" for name, value in told))

    def table(self) -> Table:
        """Return what is shown now: the last runs, and the sums of all."""
        hours = (time.monotonic() - self._began_s) / 3600
        kinds = self._kinds + self._made if self._seed is not None else self._kinds
        each = ", ".join(f"{kind} {times:,}" for kind, times in sorted(kinds.items()))
        caption = f"{hours:.2f} of {self._hours:g} h · {len(self._rows)} runs ended · {each}"
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=escape(caption))
        for column in self._COLUMNS:
            justify: JustifyMethod = "left" if column in ("run", "verdict") else "right"
            table.add_column(column, justify=justify)
        for row in self._rows[-_SOAK_ROWS:]:
            table.add_row(*(escape(_cell(value)) for value in row))
        if self._seed is not None:
            commands, faults = sum(self._commands.values()), sum(self._made.values())
            now = ["this one", self._seed, commands, None, faults, None, None]
            table.add_row(*(escape(_cell(value)) for value in now))
        return table


def print_json(text: str) -> None:
    """Write the one document of --json."""
    sys.stdout.write(text + "\n")


def _printable(text: str) -> str:
    """Return a text from elsewhere without what would steer the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return str(value)


def show_summary(screen: Screen, summary: dict[str, Any], hosts: list[dict[str, Any]]) -> None:
    """Show an assembled run: a row a host, and below it the cluster as a whole."""
    columns = {
        "host": "host",
        "threads": "threads",
        "commands": "commands",
        "throughput_per_s": "commands/s",
        "latency_us_p50": "p50 µs",
        "latency_us_p90": "p90 µs",
        "latency_us_p99": "p99 µs",
        "latency_us_p999": "p99.9 µs",
        "latency_us_max": "max µs",
        "conflicts": "conflicts",
        "aborted": "aborted",
        "unknown": "unknown",
    }
    latency = {f"latency_us_{name}": value for name, value in summary["latency_us"].items()}
    cluster = {**summary, **latency, "host": "cluster"}
    screen.table(
        list(columns.values()), [[row[name] for name in columns] for row in [*hosts, cluster]]
    )
    screen.note(
        f"{summary['servers']} servers · {summary['clients']} clients"
        f" · {summary['threads']} threads · {summary['connections']} connections"
        f" · {summary['workload']} workload · {_profile(summary)}"
        f" · all ran together for {summary['duration_s']} s"
        f" after {summary['warmup_s']:g} s of warm-up"
    )
    if rate := summary["target_rate_per_s"]:
        screen.note(f"fixed rate of {rate:,g} commands/s: latencies are from the intended start")
    else:
        screen.note("closed loop: latencies are of the commands that there was room for")
    screen.note(f"limit: {summary['limit']}")
    if bound := summary["bound"]:
        most = f"{bound['throughput_per_s']:,.0f} commands/s that the links would allow"
        screen.note(f"{bound['share']:.1%} of the {most}")
    if busiest := summary["busiest"]:
        screen.note(f"busiest host: {busiest['host']}, {busiest['cpu_busy']:.0%} of its processor")
    show_flaws(screen, summary)
    found = summary["verdict"]
    (screen.note if found["verdict"] == _OK else screen.warn)(f"verdict: {_verdict(summary)}")
    for reason in found["reasons"]:
        screen.warn(reason)


def show_flaws(screen: Screen, summary: dict[str, Any]) -> None:
    """Show what is missing from an assembled run, and what makes it doubtful."""
    for flaw in summary["flaws"]:
        screen.warn(flaw)


def _profile(summary: dict[str, Any]) -> str:
    return f"{summary['profile']} profile, window {summary['window']}"


def _verdict(summary: dict[str, Any]) -> str:
    """Return whether the table kept its promises, and on what that rests."""
    found, replicas = summary["verdict"], summary["replicas"]
    parts = [found["verdict"]]
    if counts := found["counts"]:
        judged = f"{counts['commands']:,} commands on {counts['keys']:,} keys judged"
        if found["sample"] > 1:
            judged += f", a sample of one key in {found['sample']}"
        if counts["unknown"]:
            judged += f", {counts['unknown']:,} of them of unknown outcome"
        if error_s := found["clock_error_s"]:
            judged += f", by clocks that are known to {error_s * 1e3:.2g} ms"
        parts.append(judged)
    return "; ".join([*parts, *([_equality(replicas)] if replicas else [])])


def _equality(replicas: dict[str, Any]) -> str:
    differing = len(replicas["differing"])
    keys = f"{replicas['keys']:,} keys"
    return f"{keys}, {differing} DIFFER" if differing else f"{keys}, equal on both replicas"


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def show_sweep(screen: Screen, varied: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Show a row a point: its values, and what came of them."""
    columns = {
        **{name: name.replace("_", " ") for name in varied},
        "runs": "runs",
        "throughput_per_s": "commands/s",
        "within": "±",
        "latency_us_p50": "p50 µs",
        "latency_us_p99": "p99 µs",
        "conflicts_share": "conflicts/command",
        "bound_share": "of the bound",
        "limit": "limit",
    }
    shown = [
        {
            **row,
            **{name: _as_typed(row[name]) for name in varied},
            "within": row["throughput_high"] and row["throughput_high"] - row["throughput_per_s"],
            "conflicts_share": f"{row['conflicts_share']:.3f}",
            "limit": row["limit"].partition(":")[0],
            "bound_share": row["bound_share"] and f"{row['bound_share']:.0%}",
        }
        for row in rows
    ]
    screen.table(list(columns.values()), [[row[name] for name in columns] for row in shown])
    screen.note("±: half of the 95 % interval of the mean of all runs of a point")
    if doubtful := sum(row["doubtful"] for row in rows):
        screen.warn(f"{doubtful} runs are doubtful: each one's summary.json has its marks")


def _as_typed(value: object) -> object:
    """Return a float as a text, which has all its digits; what else there is, as it is."""
    return str(value) if isinstance(value, float) else value


def show_comparison(screen: Screen, summaries: Sequence[dict[str, Any]]) -> None:
    """Show runs side by side, and how each compares with the first; fits 100 columns."""
    columns = [
        *("profile", "window", "commands/s", "ratio", "p50 µs", "p99 µs"),
        *("messages/command", "conflicts"),
    ]
    first = summaries[0]
    rows = [
        [
            summary["profile"],
            summary["window"],
            summary["throughput_per_s"],
            _ratio(summary["throughput_per_s"], first["throughput_per_s"]),
            summary["latency_us"]["p50"],
            summary["latency_us"]["p99"],
            _ratio(summary["messages"], summary["commands"]),
            summary["conflicts"],
        ]
        for summary in summaries
    ]
    screen.table(columns, rows)
    screen.note(
        f"{first['servers']} servers · {first['clients']} clients · {first['threads']} threads"
        f" · {first['connections']} connections · {first['duration_s']:.0f} s a run"
    )
    screen.note("window: commands of a thread in flight; ratio: of commands/s to the first run's")
    for summary in summaries:
        found, replicas = summary["verdict"]["verdict"], summary["replicas"]
        told = f"{found}; {_equality(replicas)}" if replicas else found
        screen.note(f"logs/{summary['run']}: {_profile(summary)}: {told}")


def show_compared(screen: Screen, compared: dict[str, Any]) -> None:
    """Show how runs B compare with runs A, and whatever makes that doubtful."""
    intervals = {name: _interval(row["interval"]) for name, row in compared["figures"].items()}
    screen.table(
        ["figure", "A", "B", "B / A", "95 % interval"],
        [
            [_FIGURES[name], row["a"], row["b"], _factor(row["ratio"]), intervals[name]]
            for name, row in compared["figures"].items()
        ],
    )
    by = compared["decided_by"]
    screen.note(
        f"{compared['verdict']}: B / A of {_FIGURES[by]} is"
        f" {intervals[by] or 'not known: the runs are too short, or too small'}"
    )
    if by != "throughput_per_s":
        screen.note("at a fixed rate the rate gives the throughput: so p99 latency decides")
    if not compared["repeated"]:
        once = [side.upper() for side in ("a", "b") if len(compared[side]) == 1]
        screen.note(
            f"one run of {' and '.join(once)}: how much runs differ by themselves is not in these"
            " intervals; repeat them to know (fab compare a1,a2,a3 b1,b2,b3)"
        )
    if differs := compared["differs"]:
        screen.table(["differs", "A", "B"], [[name, *values] for name, values in differs.items()])
    else:
        screen.note("nothing differs: B repeats A")
    for objection in compared["objections"]:
        screen.warn(f"compared all the same: {objection}")
    for summary in (*compared["a"], *compared["b"]):
        for flaw in (*summary["flaws"], *_unequal(summary["replicas"])):
            screen.warn(f"{summary['run']}: {flaw}")


def _factor(ratio: float | None) -> str | None:
    return None if ratio is None else f"{ratio:,.3f}"


def _interval(ends: tuple[float, float] | None) -> str | None:
    return None if ends is None else " to ".join(f"{end:,.3f}" for end in ends)


def _unequal(replicas: dict[str, Any] | None) -> list[str]:
    return [_equality(replicas)] if replicas and replicas["differing"] else []
