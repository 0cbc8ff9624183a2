"""One evaluation from what was asked for to its end: read, check, retrain, choose, look, tell."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.changes import check_unchanged, note_source
from search.coordinator import Ending
from search.display import Progress, say
from search.errors import RunError, StudyError
from search.evaluation import (
    Contest,
    choose_candidates,
    choose_seeds,
    choose_winner,
    mean_and_std,
    plan_retrainings,
    told_apart,
)
from search.looks import Evaluation, headline, look_at_test, looks_before, record_look
from search.processes import catch_signals
from search.recurrent import compile_first
from search.retraining import Result, Retrainer, Retraining, read_result
from search.running import Plan, Request, make_plan
from search.stored_study import StoredStudy, Taken
from search.surroundings import surroundings
from search.trial import Curve, Decision, Epoch, Outcome
from search.wording import UNITS, figure, short
from search.worker import TrialRules


class RetrainingProgress(Progress):
    """Follows retrainings as `Progress` follows trials, with which it shares lines and bars.

    Args:
        console: Where to write; bars are drawn only if it is a terminal.
        stored: The study.
        total: How many retrainings there are.
        done: How many of them are finished already.
        workers: How many trials there are at once.
    """

    noun = "retrainings"

    def __init__(
        self, console: Console, stored: StoredStudy, total: int, done: int, workers: int
    ) -> None:
        super().__init__(console, stored, total, workers, None)
        self._before = self._done = done
        # Its own best: the trials were the best of many, retrainings cannot compare with them.
        self._best = None
        self._seeds: dict[int, int] = {}

    def label(self, taken: Taken) -> str:
        """Names a retraining by its trial and seed."""
        return f"#{taken.number} seed {self._seeds[taken.trial_id]}"

    def _count(self, _outcome: Outcome | None, _value: float | None) -> None:
        """Counts one retraining more; the study knows nothing of them."""
        if _outcome is None or _outcome is Outcome.INTERRUPTED:
            return
        self._done += 1
        if _outcome is Outcome.COMPLETE and _value is not None:
            better = self._best is None or self._goal.better(_value, self._best)
            self._best = _value if better else self._best

    def as_trial(self, retraining: Retraining) -> Taken:
        """Returns what stands for a retraining where a trial is expected."""
        self._seeds[retraining.index] = retraining.seed
        return Taken(retraining.trial, retraining.index, retraining.params, 0, 0)


class _Observer:
    """Tells a `RetrainingProgress` of retrainings in the words of trials."""

    def __init__(self, progress: RetrainingProgress) -> None:
        self._progress = progress

    def started(self, worker: int, retraining: Retraining) -> None:
        """A retraining starts, or goes on."""
        self._progress.started(worker, self._progress.as_trial(retraining))

    def advanced(self, worker: int, retraining: Retraining, epoch: Epoch) -> None:
        """A retraining has trained an epoch."""
        self._progress.advanced(worker, self._progress.as_trial(retraining), epoch)

    def ended(self, worker: int, retraining: Retraining, decision: Decision, curve: Curve) -> None:
        """A retraining is over, or interrupted."""
        self._progress.ended(worker, self._progress.as_trial(retraining), decision, curve)

    def tick(self) -> None:
        """Some time has passed."""
        self._progress.tick()

    def say(self, line: str) -> None:
        """Something happened that a person should know."""
        self._progress.say(line)


def evaluate_study(
    stored: StoredStudy, request: Request, top: int, seeds: int, console: Console
) -> tuple[Evaluation | None, Ending]:
    """Retrains the best configurations, chooses the winner, and looks at the test part once.

    Args:
        stored: The study; all that is written to it is that the test part was looked at.
        request: Workers and device.
        top: How many configurations.
        seeds: How many seeds.
        console: Where to say what happens.

    Returns:
        The evaluation and DONE, or None and INTERRUPTED.

    Raises:
        RequestError: There is nothing to evaluate, the data is another, or another evaluation of
            the study is under way.
        RunError: Disk or trainers failed, or no retraining completed.
    """
    over = sum(trial.state.is_finished() for trial in stored.trials())
    candidates = choose_candidates(stored, top)
    plan = _plan(stored, request, console)
    chosen = choose_seeds(stored.config.seed, seeds, len(stored.trials()))
    wanted = plan_retrainings(stored, candidates, chosen)
    with _only_one(stored):
        results, ending = _retrain(stored, plan, wanted, console)
        if ending is not Ending.DONE:
            return None, ending
        contests = [
            Contest(one, tuple(r for r in results if r.retraining.trial == one.trial))
            for one in candidates
        ]
        winner = choose_winner(contests, stored.goal)
        look = look_at_test(winner, plan.splits, plan.device, plan.factory)
        looks = record_look(stored, contests, winner, look, over)
    config, baselines = stored.config, stored.attributes["baselines"]
    names = (config.name, config.data.task, headline(stored), stored.goal)
    told = looks, looks_before(stored)
    return Evaluation(*names, contests, winner, look, *told, baselines), Ending.DONE


def _plan(stored: StoredStudy, request: Request, console: Console) -> Plan:
    stored.database.require_writable()
    plan = make_plan(request, stored=stored.config)
    check_unchanged(stored, plan.config, plan.splits.fingerprint)
    for note in note_source(stored, plan.factory):
        say(console, f"note: {note}")
    return plan


def _retrain(
    stored: StoredStudy, plan: Plan, wanted: list[Retraining], console: Console
) -> tuple[list[Result], Ending]:
    """Trains what is not finished yet; returns the results in the order of ``wanted``."""
    code = None if plan.factory is None else plan.factory.source
    known = {one.index: read_result(one, code) for one in wanted}
    left = [one for one in wanted if known[one.index] is None]
    # What is compared should be computed alike.
    crew = plan.crew.alone().at_most(len(left))
    trials = len({one.trial for one in wanted})
    say(
        console,
        f"Evaluation of {stored.config.name}: configurations {trials}, seeds "
        f"{len(wanted) // trials}, {len(wanted) - len(left)} of {len(wanted)} done, {crew}",
    )
    results = {index: result for index, result in known.items() if result is not None}
    if not left:
        return [results[one.index] for one in wanted], Ending.DONE
    if crew.on_cores and plan.factory is None:
        compile_first(lambda line: say(console, line))
    stopping = stored.config.stopping
    rules = TrialRules(stored.goal, stopping.patience, stopping.divergence)
    with (
        catch_signals() as signals,
        crew.start(plan.splits, rules, plan.factory) as trainers,
        RetrainingProgress(console, stored, len(wanted), len(results), crew.size) as progress,
    ):
        found = Retrainer(
            trainers,
            stored.goal,
            _Observer(progress),
            surroundings(plan.device, plan.factory),
            lambda: signals.count > 0,
        ).run(left)
    results |= {result.retraining.index: result for result in found}
    ending = Ending.DONE if len(results) == len(wanted) else Ending.INTERRUPTED
    return [results[one.index] for one in wanted if one.index in results], ending


@contextmanager
def _only_one(stored: StoredStudy) -> Iterator[None]:
    """Holds the study's evaluation folder; the lock ends with its holder, however that ends."""
    folder = stored.folder / "evaluation"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(
                f"another evaluation of '{stored.config.name}' is under way; wait for its end"
            ) from None
        except OSError as error:  # A file system without locks.
            raise RunError(f"{folder / 'lock'} cannot be locked: {error.strerror}") from None
        yield


def print_evaluation(console: Console, evaluation: Evaluation) -> None:
    """Prints what people read: the candidates, the test part, and how far to trust it."""
    metric = evaluation.metric
    words = metric.replace("_", " ")
    console.print()
    say(console, f"Validation {words} of the best configurations, trained again:")
    console.print(_candidates_table(evaluation))
    promised, kept = evaluation.optimism
    best = evaluation.contests[0].candidate.trial
    say(
        console,
        f"Optimism of the search: its best trial, #{best}, had {figure(metric, promised)}; the "
        f"mean of its retrainings is {figure(metric, kept)}",
    )
    winner = evaluation.winner
    console.print()
    say(console, f"Winner: #{winner.candidate.trial}, {_why(evaluation)}")
    decides = evaluation.goal.metric
    values = {
        one.candidate.trial: [result.figures[decides] for result in one.complete]
        for one in evaluation.contests
    }
    said = told_apart(values.pop(winner.candidate.trial), values, decides)
    if said:
        say(console, said)
    say(console, f"Test {words}{UNITS.get(metric, '')}:")
    for table in _test_tables(evaluation, console.width):
        console.print(table)
    places = {str(result.retraining.folder.parent) for result in winner.complete}
    say(console, f"Its networks are kept in {', '.join(sorted(places))}")
    print_warnings(console, evaluation)


def _why(evaluation: Evaluation) -> str:
    """Says what made the winner win: its mean, unless one with a better mean has failed more."""
    winner, name = evaluation.winner, evaluation.goal.metric
    words, mean = name.replace("_", " "), winner.spread(name)[0]
    better = [
        one.candidate.trial
        for one in evaluation.contests
        if one.complete and evaluation.goal.better(one.spread(name)[0], mean)
    ]
    if not better:
        return f"by the mean of its validation {words}"
    has = ", ".join(f"#{trial}" for trial in better)
    return (
        f"because fewer of its seeds diverged or failed; {has} "
        f"{'has' if len(better) == 1 else 'have'} a better mean of the validation {words}"
    )


def print_warnings(console: Console, evaluation: Evaluation) -> None:
    """Prints what makes the figures worth less: what failed, and that it is not the first look."""
    for line in _warnings(evaluation):
        say(console, line)


def _warnings(evaluation: Evaluation) -> list[str]:
    """Returns what makes the figures worth less."""
    lines = [
        f"note: {contest.failed} of {len(contest.results)} retrainings of "
        f"#{contest.candidate.trial} have no figure: {reason}"
        for contest in evaluation.contests
        for reason in [next((r.reason for r in contest.results if not r.complete), None)]
        if reason is not None
    ]
    before = [*evaluation.before, *evaluation.looks[:-1]]
    if before:
        where = f" of '{before[0]['study']}'" if "study" in before[0] else ""
        lines.append(
            f"WARNING: this was look {len(before) + 1} at the test part; the first was at "
            f"{before[0]['time']} (trial #{before[0]['trial']}{where}). Whatever was changed since "
            "because of it makes this figure too good; only the first is quite honest."
        )
    return lines


def _candidates_table(evaluation: Evaluation) -> Table:
    metric, decides = evaluation.metric, evaluation.goal.metric
    more = [] if decides == metric else [decides]
    titles = ["trial", "in the search", "mean", "std"]
    titles += [f"{one.replace('_', ' ')}, {what}" for one in more for what in ("mean", "std")]
    rows = []
    for contest in evaluation.contests:
        candidate = contest.candidate
        mark = "  ← winner" if contest is evaluation.winner else ""
        rows.append(
            [
                f"#{candidate.trial}",
                figure(metric, candidate.figures.get(metric, float("nan"))),
                *(figure(name, one) for name in (metric, *more) for one in contest.spread(name)),
                f"{len(contest.complete)}/{len(contest.results)}",
                short(candidate.params.to_dict()) + mark,
            ]
        )
    titles += ["seeds", "configuration"]
    return _table(titles, rows)


def _test_tables(evaluation: Evaluation, width: int) -> list[Table]:
    """Returns the figures by seed, in several tables where one is too wide: none is cut short."""
    metric, look = evaluation.metric, evaluation.look
    names = sorted(look.ensemble, key=lambda name: name != metric)
    rows = [
        (f"seed {result.retraining.seed}", figures)
        for result, figures in zip(evaluation.winner.complete, look.each, strict=True)
    ]
    pairs = {name: mean_and_std([figures[name] for figures in look.each]) for name in names}
    rows += [
        ("mean of the seeds", {name: mean for name, (mean, _) in pairs.items()}),
        ("std of the seeds", {name: std for name, (_, std) in pairs.items()}),
        ("ensemble of the seeds", look.ensemble),
        *((name.replace("_", " "), figures) for name, figures in look.baselines.items()),
    ]
    first = ["", *(title for title, _ in rows)]
    columns = [
        [
            name.replace("_", " "),
            *(figure(name, each[name]) if name in each else "" for _, each in rows),
        ]
        for name in names
    ]
    return [
        _table([part[0] for part in parts], list(zip(*(part[1:] for part in parts), strict=True)))
        for parts in _fitting(first, columns, width)
    ]


def _fitting(
    first: list[str], columns: Sequence[list[str]], width: int
) -> Iterator[list[list[str]]]:
    """Yields the columns by as many as fit beside the first, and one of them at least."""
    sizes = [2 + max(map(cell_len, column)) for column in columns]
    room = width - max(map(cell_len, first))
    begin = used = 0
    for at, size in enumerate(sizes):
        if at > begin and used + size > room:
            yield [first, *columns[begin:at]]
            begin, used = at, 0
        used += size
    yield [first, *columns[begin:]]


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Returns a table of words as they are: a column's or an entry's name may have brackets."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in titles:
        words = title in ("", "configuration")
        table.add_column(Text(title), justify="left" if words else "right", no_wrap=not words)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
