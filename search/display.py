"""What a person sees in the terminal: live bars or plain lines, and the tables at the end."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any, Self

from rich.cells import cell_len
from rich.console import Console, Group, JustifyMethod
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.diagnosis import ADVICE, Finding
from search.observing import Observer
from search.report import Summary, TrialLine
from search.sparkline import best_so_far, sparkline
from search.stored_study import StoredStudy, Taken
from search.trial import Curve, Decision, Epoch, Outcome
from search.wording import (
    COLUMNS,
    SHOWN,
    UNITS,
    cells_of,
    duration,
    evaluated,
    figure,
    own_columns,
    short,
)

OTHER_ROWS = 5
"""Rows of a terminal that are not for workers: what stands below them, and a line above."""
REFRESH = 0.25
"""Seconds between two drawings of the bars, which take 3.5 ms of what trains."""
NARROW, USUAL_LABEL = 80, 8
"""Columns below which a bar leaves out what it can do without, where its label has so many."""


def verdict(finding: Finding | None, taken: Taken) -> str:
    """Writes what a trial's losses show, to end its line: ``jumping, lr 0.31 → lower``."""
    if finding is None:
        return ""
    rate = f", lr {taken.params.learning_rate:.2g} → " + finding.advice.split()[0]
    return f"  ·  {finding.name}{rate if finding.rate_factor else ''}"


class Progress(Observer):
    """Follows a run: one line for each trial that ends and, on a terminal, live bars below.

    Args:
        console: Where to write; bars are drawn only if it is a terminal.
        stored: The study.
        total: How many trials it is to have.
        workers: How many trials there are at once.
        timeout: Seconds that the run may take; None: no limit.

    Attributes:
        noun: What is counted.
    """

    noun = "trials"

    def __init__(
        self,
        console: Console,
        stored: StoredStudy,
        total: int,
        workers: int,
        timeout: float | None,
    ) -> None:
        self._console = console
        self._stored = stored
        self._goal = stored.goal
        self._total = total
        self._timeout = timeout
        self._running: dict[int, tuple[Taken, Epoch | None]] = {}
        self._workers = workers
        self._started = time.monotonic()
        self._best: float | None = None
        self._history: list[float] = []
        self._before = self._done = 0
        self._count(None, None)
        self._before = self._done
        self._drawn = 0.0
        self._live = Live(
            console=console, auto_refresh=False, transient=True, get_renderable=self._render
        )

    def __enter__(self) -> Self:
        """Starts drawing."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Takes the bars away; the lines stay."""
        if self._console.is_terminal:
            self._live.stop()

    def started(self, worker: int, taken: Taken) -> None:
        """A trial starts, or goes on."""
        self._running[worker] = (taken, None)
        if taken.anew:
            self.say(f"#{taken.number} begins anew: no checkpoint to go on from is on this machine")
        elif taken.reported:
            self.say(f"#{taken.number} goes on; it had come to epoch {taken.reported}")

    def label(self, taken: Taken) -> str:
        """Names a trial."""
        return f"#{taken.number}"

    def advanced(self, worker: int, taken: Taken, epoch: Epoch) -> None:
        """A trial has trained an epoch."""
        self._running[worker] = (taken, epoch)

    def ended(
        self,
        worker: int,
        taken: Taken,
        decision: Decision,
        curve: Curve,
        finding: Finding | None = None,
    ) -> None:
        """A trial is over, or interrupted; says how it ended and what its losses show."""
        self._running.pop(worker, None)
        best = curve.best(self._goal)
        value = None if best is None else best.figures[self._goal.metric]
        before, mark = self._best, ""
        self._count(decision.outcome, value)
        if decision.outcome is Outcome.COMPLETE and value is not None:
            first = before is None or self._goal.better(value, before)
            mark = "  ← best" if first and value == self._best else ""
        metric = self._goal.metric
        shown = "" if best is None else f"{metric} {best.figures[metric]:.4g} at epoch {best.index}"
        why = "" if decision.outcome is Outcome.COMPLETE else f"  ({decision.reason})"
        self.say(
            f"[{self._done}/{self._total}] {self.label(taken)} {decision.outcome}  {shown}  "
            f"{short(taken.params.to_dict())}{why}{verdict(finding, taken)}{mark}"
        )

    def _count(self, _outcome: Outcome | None, _value: float | None) -> None:
        """Counts what is finished and finds the best values, in the order of the trials' ends.

        Other runs may have added to both.

        Args:
            _outcome: How a trial has just ended; None at the start.
            _value: The value of its best epoch.
        """
        values = self._stored.recent().values
        new, self._done = values[self._done :], len(values)
        known = self._history[-1:]
        self._history += best_so_far([*known, *new], self._goal)[len(known) :]
        self._best = self._history[-1] if self._history else None

    def tick(self) -> None:
        """Draws the bars anew, four times a second at most."""
        if self._console.is_terminal and time.monotonic() - self._drawn > REFRESH:
            self._drawn = time.monotonic()
            self._live.refresh()

    def say(self, line: str) -> None:
        """Prints a line, above the bars; a terminal gets it broken between words."""
        whole = not self._console.is_terminal
        self._console.print(line, markup=False, highlight=False, soft_wrap=whole)

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 2))
        rows = min(self._workers, max(1, self._console.height - OTHER_ROWS))
        for worker in range(rows):
            table.add_row(*self._row(worker))
        if rows < self._workers:
            table.add_row(f"and {self._workers - rows} more")
        best = "none yet" if self._best is None else f"{self._best:.4g}"
        line = (
            f"{self._done}/{self._total} {self.noun}  ·  best {self._goal.metric} {best}  ·  "
            f"{self._left()}"
        )
        bars = f"best so far  {sparkline(self._history, self._console.encoding)}"
        shown = [Text(bars)] if len(self._history) > 1 else []
        return Group(table, *shown, Text(line, style="bold"))

    def _row(self, worker: int) -> list[Any]:
        if worker not in self._running:
            state = "waiting" if self._drawn else "starting"
            return [f"worker {worker}", Text(state, style="dim")]
        taken, epoch = self._running[worker]
        done = 0 if epoch is None else epoch.index
        losses = ["", ""]
        if epoch is not None:
            losses = [f"train {epoch.train_loss:.4f}", f"valid {epoch.valid_loss:.4f}"]
        bar = ProgressBar(total=taken.params.epochs, completed=done, width=20)
        count = f"epoch {done}/{taken.params.epochs}"
        rate = f"lr {taken.params.learning_rate:.2g}"
        label = self.label(taken)
        # Bars shrink, words do not; that of a retraining has its seed.
        if self._console.width < NARROW + max(0, len(label) - USUAL_LABEL):
            return [f"worker {worker}", label, count, losses[1]]
        return [f"worker {worker}", label, bar, count, *losses, rate]

    def _left(self) -> str:
        elapsed, done = time.monotonic() - self._started, self._done - self._before
        limits = [] if self._timeout is None else [max(0.0, self._timeout - elapsed)]
        if done > 0:
            limits.append(elapsed / done * max(0, self._total - self._done))
        return f"about {duration(min(limits))} left" if limits else "time left: not known yet"


def print_summary(console: Console, summary: Summary) -> None:
    """Prints the tables that end a run, and that ``show`` prints."""
    counts = summary.counts
    console.print()
    place = escape(summary.storage)
    console.print(f"Study [bold]{summary.name}[/]  ({summary.task}, {place})")
    plainly = counts["pruned"] - counts["diverged"] - counts["out_of_memory"]
    parts = [
        f"{counts['complete']} complete",
        f"{plainly} pruned",
        f"{counts['diverged']} diverged",
        f"{counts['failed']} failed",
    ]
    parts += [
        f"{counts[name]} {name.replace('_', ' ')}"
        for name in ("out_of_memory", "running", "interrupted", "waiting")
        if counts[name]
    ]
    console.print(f"{counts['total']} of {summary.target} trials: {', '.join(parts)}")
    _explain(console, summary)
    console.print()
    if summary.ranking:
        table, left_out = ranking_table(summary, console.width)
        console.print(table)
        if left_out:
            say(console, f"No room here for {', '.join(left_out)}; a pipe (| cat) has it")
    else:
        console.print("No trial has completed, so there is no best one yet.")
    say(console, _beside_baselines(summary))
    if summary.evaluated:
        say(console, evaluated(summary))
    if len(summary.progress) > 1:
        bars = sparkline(summary.progress, console.encoding)
        first, last = (f"{summary.metric} {summary.progress[i]:.4g}" for i in (0, -1))
        say(console, f"Best so far: {first}  {bars}  {last}")


def _explain(console: Console, summary: Summary) -> None:
    """Prints why trials ended, what their curves say, and what else a person should know."""
    for outcome, reasons in summary.reasons.items():
        for reason, count in reasons.items():
            say(console, f"  {outcome} {count}: {reason}")
    for name, count in summary.verdicts.items():
        say(console, f"  {name} {count}: {ADVICE[name][0]}")
    if summary.enough:
        say(console, f"  enough: {summary.enough}")
    for note in summary.notes:
        say(console, f"  note: {note}")


def say(console: Console, line: str) -> None:
    """Prints a line, which a terminal gets broken between words, and a file or pipe whole."""
    console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _beside_baselines(summary: Summary) -> str:
    headline = summary.headline
    naive = [
        f"{name.replace('_', ' ')} {figure(headline, figures[headline])}"
        for name, figures in summary.baselines.items()
        if headline in figures
    ]
    if summary.best is not None and headline in summary.best.figures:
        naive.insert(0, f"best trial {figure(headline, summary.best.figures[headline])}")
    return (
        f"Validation {headline.replace('_', ' ')}{UNITS.get(headline, '')}: {'  ·  '.join(naive)}"
    )


def studies_table(summaries: list[Summary]) -> Table:
    """Returns one line a study."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("study", "task", "trials", "complete", "best", "figure"):
        side: JustifyMethod = "left" if column in ("study", "task") else "right"
        # A name cut short is none that can be given to another command: it is broken rather.
        name = column == "study"
        table.add_column(column, justify=side, overflow="fold", no_wrap=not name)
    for summary in summaries:
        best, headline = summary.best, summary.headline
        value = math.nan if best is None else best.figures.get(headline, math.nan)
        table.add_row(
            summary.name,
            summary.task,
            f"{summary.counts['total']}/{summary.target}",
            str(summary.counts["complete"]),
            "" if best is None else f"#{best.number}",
            "" if best is None else f"{headline.replace('_', ' ')} {figure(headline, value)}",
        )
    return table


def ranking_table(summary: Summary, width: int) -> tuple[Table, list[str]]:
    """Returns the best trials with their hyperparameters, one line each, and what is left out.

    It takes 80 columns or so; of a narrower terminal it leaves out what does not fit, from the
    right, because a figure cut short is worse than none.
    """
    headline = summary.headline
    # For language the loss is the headline: nats per character.
    same = summary.task == "language" and summary.metric == "loss"
    values = [headline] if same or headline == summary.metric else [summary.metric, headline]
    own = own_columns(summary)
    titles = (*(value.replace("_", " ") for value in values), "epoch", *COLUMNS, *own)
    rows = [["trial", *titles]]
    for line in summary.ranking[:SHOWN]:
        figures = [figure(name, line.figures.get(name, math.nan)) for name in values]
        epoch = f"{line.epoch or '-'}/{line.epochs}"
        rows.append([f"#{line.number}", *figures, epoch, *cells_of(line, own)])
    widths = [1 + max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    fit = sum(total <= width + 1 for total in itertools.accumulate(widths))
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for title in rows[0][:fit]:
        table.add_column(Text(title), justify="right", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*map(Text, row[:fit]))
    return table, rows[0][fit:]


def print_trial(console: Console, line: TrialLine, metric: str) -> None:
    """Prints all that is known of one trial."""
    console.print(f"[bold]Trial {line.number}[/]: {line.outcome}")
    if line.reason:
        console.print(f"  {line.reason}", markup=False, highlight=False, soft_wrap=True)
    if line.follows is not None:
        console.print(f"  follows the advice on trial {line.follows}", highlight=False)
    if line.finding is not None:
        evidence = ", ".join(f"{key} {value:g}" for key, value in line.finding.evidence.items())
        said = f"  {line.finding.name} ({evidence}): {line.finding.advice}"
        console.print(said, markup=False, highlight=False, soft_wrap=True)
    if line.value is not None:
        when = f" at epoch {line.epoch} of {line.epochs}" if line.epoch else ""
        console.print(f"  {metric} {line.value:.6g}{when}")
    elif line.epoch:
        console.print(f"  best epoch {line.epoch} of {line.epochs}", highlight=False)
    for name, value in {**line.params, **line.figures}.items():
        console.print(f"  {name} = {value}", markup=False, highlight=False, soft_wrap=True)
    rows = zip(line.curve.get("train", []), line.curve.get("valid", []), strict=True)
    for index, (train, valid) in enumerate(rows, start=1):
        console.print(f"  epoch {index:3d}  train {_loss(train)}  valid {_loss(valid)}")
    if line.traceback:
        console.print(line.traceback, markup=False, highlight=False, soft_wrap=True)


def _loss(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.5f}"
