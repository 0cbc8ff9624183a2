"""What of a study an export takes: a trial's network, the best of its evaluation, or all of them.

The evaluation's winner is the configuration of its last look at the test part. Of its seeds, the
one with the best validation figure is taken; the test part chooses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.changes import source_of
from search.checkpoints import load_weights
from search.errors import RunError, StudyError
from search.evaluation import Candidate, plan_retrainings
from search.looks import looks_before, looks_of
from search.model_files import AtTest, Member, Source, joint_weights
from search.report import TrialLine, find_trial, summarize
from search.retraining import Result, code_of, read_result
from search.space import HyperParams
from search.stored_study import StoredStudy
from search.trial import Outcome
from search.trial_files import WEIGHTS as KEPT
from search.trial_files import trial_folder


@dataclass(frozen=True)
class Selection:
    """What is exported.

    Attributes:
        source: See `Source`.
        trial: Number of the trial whose configuration it is.
        params: The configuration.
        epoch: Whose weights these are; None for an ensemble.
        figures: Validation figures; empty for an ensemble: whoever has the data computes them.
        members: The networks that an evaluation trained, in the order of their weights.
        test: Figures of the test part; None if there are none of just these networks.
        content: Of the safetensors file.
        path: Where the weights are from, for messages.
        code: Fingerprint of the user's own code that trained them, if there is any and it is known.
    """

    source: Source
    trial: int
    params: HyperParams
    epoch: int | None
    figures: dict[str, float]
    members: tuple[Member, ...]
    test: AtTest | None
    content: bytes
    path: Path
    code: str | None


def select(stored: StoredStudy, source: Source, number: int | None) -> Selection:
    """Returns what is to be exported.

    Args:
        stored: The study.
        source: What is asked for.
        number: Of the trial, if ``source`` is ``trial``; None: the best complete one.

    Raises:
        StudyError: There is no such trial or no evaluation, or the weights are not kept.
        RunError: A file of weights cannot be read.
    """
    if source != "trial":
        return _from_evaluation(stored, source)
    line = _choose(stored, number)
    path = trial_folder(stored.folder, line.number) / KEPT
    content = _read(path)
    if content is None:
        raise StudyError(_why_none(stored, line))
    params = HyperParams.of(line.params)
    code = source_of(stored, line.number)
    return Selection(
        "trial", line.number, params, line.epoch, line.figures, (), None, content, path, code
    )


def _from_evaluation(stored: StoredStudy, source: Source) -> Selection:
    name = stored.config.name
    looks = looks_of(stored)
    if not looks:
        raise StudyError(
            f"the study '{name}' has no evaluation to export from; "
            f"run rnn-search evaluate {name} first"
        )
    results = _results(stored, looks[-1])
    if source == "ensemble":
        return _ensemble(stored, results, _at_test(stored, None))
    sign = 1 if stored.goal.minimize else -1
    values = [sign * result.figures[stored.goal.metric] for result in results]
    place = values.index(min(values))
    return _best_seed(stored, results[place], _at_test(stored, place))


def _best_seed(stored: StoredStudy, best: Result, test: AtTest | None) -> Selection:
    path = best.retraining.folder / KEPT
    content = _read(path)
    if content is None:
        raise _gone(stored, path.parent)
    trial, params = best.retraining.trial, best.retraining.params
    members, code = (_member(best),), code_of(best.retraining)
    return Selection(
        "winner", trial, params, best.epoch, best.figures, members, test, content, path, code
    )


def _ensemble(stored: StoredStudy, results: Sequence[Result], test: AtTest | None) -> Selection:
    weights = []
    for result in results:
        one = load_weights(result.retraining.folder)
        if one is None:
            raise _gone(stored, result.retraining.folder)
        weights.append(one)
    first, content = results[0].retraining, joint_weights(weights)
    members, place = tuple(map(_member, results)), first.folder.parent
    trial, params, code = first.trial, first.params, code_of(first)
    return Selection("ensemble", trial, params, None, {}, members, test, content, place, code)


def _member(result: Result) -> Member:
    assert result.epoch is not None
    return Member(seed=result.retraining.seed, epoch=result.epoch, figures=result.figures)


def _results(stored: StoredStudy, look: Mapping[str, Any]) -> list[Result]:
    """Returns what came of the winner's complete retrainings, in the order of their seeds."""
    line = find_trial(stored, look["trial"])
    params = HyperParams.of(line.params)
    candidate = Candidate(line.number, line.value or 0.0, line.figures, params)
    results = list[Result]()
    for one in plan_retrainings(stored, [candidate], look["seeds"]):
        result = read_result(one)
        if result is None or not result.complete:
            raise _gone(stored, one.folder)
        # An evaluation that was cut off may have trained some anew, with other code.
        if code_of(one) != code_of((results[0] if results else result).retraining):
            raise _gone(stored, one.folder)
        results.append(result)
    return results


def _gone(stored: StoredStudy, place: Path) -> StudyError:
    name = stored.config.name
    return StudyError(
        f"{place} no longer has a network that won; run rnn-search evaluate {name} again, which "
        "trains it anew"
    )


def _at_test(stored: StoredStudy, place: int | None) -> AtTest | None:
    """Returns what the last look saw of a seed's network, by its place; None: of all together."""
    looks = [*looks_before(stored), *looks_of(stored)]
    look = looks[-1]
    figures = look.get("figures")
    if figures is not None:
        found = figures["ensemble"] if place is None else figures["seeds"][place]
    elif place is None:  # An earlier rnn-search recorded the shown figure only.
        found = {look["metric"]: look["ensemble"]}
    else:
        return None
    return AtTest(figures=found, time=look["time"], look=len(looks))


def _choose(stored: StoredStudy, number: int | None) -> TrialLine:
    if number is not None:
        line = find_trial(stored, number)
        if line.outcome != Outcome.COMPLETE:
            raise StudyError(
                f"trial {number} of '{stored.config.name}' is {line.outcome}, not complete, so it "
                f"keeps no weights{_those_that_do(stored)}"
            )
        return line
    best = summarize(stored).best
    if best is None:
        raise StudyError(
            f"the study '{stored.config.name}' has no complete trial yet; run it first"
        )
    return best


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None


def _why_none(stored: StoredStudy, line: TrialLine) -> str:
    """Says why a complete trial has no weights here."""
    name, keep = stored.config.name, stored.config.keep
    best = [one.number for one in summarize(stored).ranking[:keep] if one.epoch is not None]
    if line.number in best:
        return (
            f"the weights of trial {line.number} of '{name}' are not in {stored.folder}; if they "
            "were not removed while keep was smaller, they lie where it was trained: export it "
            f"there, in the folder of that run{_those_that_do(stored)}"
        )
    return (
        f"trial {line.number} of '{name}' keeps no weights; only the best {keep} do (keep in the "
        f"study file){_those_that_do(stored)}"
    )


def _those_that_do(stored: StoredStudy) -> str:
    """Returns the end of a message: the trials that can be exported."""
    kept = [
        str(line.number)
        for line in summarize(stored).ranking
        if (trial_folder(stored.folder, line.number) / KEPT).exists()
    ]
    return f"; --trial can be {', '.join(kept)}" if kept else "; none of its trials has any here"
