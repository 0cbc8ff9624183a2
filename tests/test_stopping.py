"""The rules that end a trial early: what they must never do, and what they must not miss."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from search.stopping import (
    PRUNERS,
    SMALLEST,
    Divergence,
    DivergenceState,
    Peers,
    Pruner,
    batch_judge,
    not_finite,
    out_of_patience,
    stagnated,
    target_reached,
    worse_than_peers,
)
from search.trial import Decision, Goal, Outcome

RULE = Divergence()
LARGEST_FACTOR = max(RULE.factor, RULE.settled_factor)
MINIMIZE, MAXIMIZE = Goal(), Goal("accuracy", minimize=False)

losses_ = st.floats(1e-6, 1e6)
sequences = st.lists(losses_, min_size=1, max_size=60)
per_epoch = st.integers(1, 20)
curves = st.lists(st.integers(0, 9).map(float), max_size=12)
goals = st.sampled_from([MINIMIZE, MAXIMIZE])
pruners = st.sampled_from(list(PRUNERS.values()))


def judge_all(
    losses: list[float], constant: float, batches: int, rule: Divergence | None = RULE
) -> int | None:
    """Returns the index of the batch at which the rule ends a trial; None if it never does."""
    judge = batch_judge(rule, constant)
    for index, loss in enumerate(losses):
        if judge(loss, 1.0, 1 + index // batches) is not None:
            return index
    return None


def test_a_growing_error_is_told_with_its_figures() -> None:
    """The decision is a divergence whose reason gives the error then and at the start."""
    judge = batch_judge(RULE, 2.0)
    decision = None
    for _ in range(10_000):
        decision = decision or judge(2.0 * LARGEST_FACTOR * 100, 1.0, 1)
    # The first batch counts as the start, so the error has to grow from there.
    assert decision is None
    judge(1e9, 1.0, 1)
    for _ in range(10_000):
        decision = decision or judge(1e9, 1.0, 1)
    assert decision is not None
    assert decision.outcome is Outcome.DIVERGED
    assert f"{2.0 * LARGEST_FACTOR * 100:.3g}" in decision.reason


@given(sequences, losses_, per_epoch)
def test_a_loss_that_never_grows_is_never_stopped(
    losses: list[float], constant: float, batches: int
) -> None:
    """A finite sequence of losses, none above the one before, is left alone."""
    assert judge_all(sorted(losses, reverse=True), constant, batches) is None


@given(sequences, losses_, per_epoch)
def test_a_loss_no_worse_than_the_start_is_never_stopped(
    losses: list[float], constant: float, batches: int
) -> None:
    """However it jumps, a loss that stays within that of the start is left alone."""
    start = max(constant, losses[0])
    assert judge_all([losses[0]] + [min(loss, start) for loss in losses], constant, batches) is None


@given(losses_, losses_, st.floats(1.02, 1e3), per_epoch)
def test_a_loss_that_grows_without_bound_is_stopped(
    first: float, constant: float, ratio: float, batches: int
) -> None:
    """A loss that grows by any steady ratio is stopped while it is still finite."""
    count = int(math.log(1e300) / math.log(ratio))
    losses = [first * ratio**power for power in range(count)]
    stopped = judge_all([loss for loss in losses if loss < 1e306], constant, batches)
    assume(len(losses) > 60)
    assert stopped is not None


@given(losses_, losses_, st.floats(1.1, 1e6), per_epoch)
def test_a_loss_that_stays_high_is_stopped(
    first: float, constant: float, excess: float, batches: int
) -> None:
    """A loss that has settled above the bar is stopped sooner or later."""
    high = max(first, constant) * LARGEST_FACTOR * excess
    assert judge_all([first] + [high] * 2000, constant, batches) is not None


@given(losses_, losses_, st.floats(1, 3), st.integers(1, 50))
def test_one_wild_batch_ends_no_trial(
    first: float, constant: float, wild: float, calm: int
) -> None:
    """A single batch a few times above the start, among calm ones, is forgiven."""
    start = max(first, constant)
    assert judge_all([first, *[start] * calm, start * wild, start], constant, 10) is None


@given(sequences, losses_, per_epoch, st.integers(-20, 20))
def test_the_unit_of_the_loss_does_not_matter(
    losses: list[float], constant: float, batches: int, power: int
) -> None:
    """With losses and the constant's loss in other units, the same batch is the last."""
    scale = 2.0**power
    scaled = [loss * scale for loss in losses]
    assert judge_all(losses, constant, batches) == judge_all(scaled, constant * scale, batches)


@given(st.lists(losses_, min_size=2, max_size=60), losses_, per_epoch, st.data())
def test_the_judge_goes_on_from_the_batches_behind(
    losses: list[float], constant: float, batches: int, data: st.DataObject
) -> None:
    """A judge made in mid-trial, from the losses so far, judges as the one that saw them all."""
    whole = batch_judge(RULE, constant)
    epochs = data.draw(st.integers(0, len(losses) // batches))
    behind = epochs * batches  # checkpoints lie between epochs
    verdicts = [whole(loss, 1.0, 1 + index // batches) for index, loss in enumerate(losses)]
    ends = [batches * (number + 1) for number in range(epochs)]
    resumed = batch_judge(RULE, constant, losses[:behind], ends)
    again = [
        resumed(loss, 1.0, 1 + index // batches)
        for index, loss in enumerate(losses[behind:], start=behind)
    ]
    assert again == verdicts[behind:]


def test_the_batches_behind_are_judged_in_their_epochs() -> None:
    """A judge made in mid-trial shows its rule each earlier batch with the epoch it was in."""
    seen: list[tuple[float, int]] = []

    class Recorder(Divergence):
        """Remembers what it was shown."""

        def update(
            self, state: DivergenceState, loss: float, gradient_norm: float, epoch: int
        ) -> tuple[DivergenceState, Decision | None]:
            """Judges as ever."""
            seen.append((loss, epoch))
            return super().update(state, loss, gradient_norm, epoch)

    batch_judge(Recorder(), 1.0, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3])(7.0, 1.0, 3)
    assert seen == [(1.0, 1), (2.0, 1), (3.0, 2), (4.0, 3), (5.0, 3), (6.0, 3), (7.0, 3)]


@given(st.lists(losses_, min_size=1, max_size=20), losses_)
def test_the_rule_is_pure(losses: list[float], constant: float) -> None:
    """The same state and batch always give the same state and decision."""
    state = RULE.start(constant)
    assert state == RULE.start(constant)
    for loss in losses:
        once, again = (RULE.update(state, loss, 1.0, 1) for _ in range(2))
        assert once == again
        state = once[0]


def test_more_is_allowed_before_a_trial_has_settled() -> None:
    """The bar is never lower in the first epochs than later."""
    assert RULE.factor >= RULE.settled_factor > 1
    between = (RULE.factor * RULE.settled_factor) ** 0.5
    losses = [1.0] + [between] * 500
    settled = RULE.settled_epochs * 100
    stopped = judge_all(losses, 1.0, 100)
    assert stopped is not None
    assert stopped >= settled


def test_a_lucky_start_sets_no_bar() -> None:
    """A network that starts better than the best constant may come back to it."""
    assert judge_all([0.01] + [1.0] * 500, 1.0, 10) is None
    assert judge_all([0.01] + [1.0] * 500, 0.01, 10) is not None


def test_without_the_rule_a_growing_error_passes() -> None:
    """With divergence turned off only what is not finite ends a trial."""
    growing = [10.0**power for power in range(300)]
    assert judge_all(growing, 1.0, 10, rule=None) is None
    assert judge_all([*growing, math.inf], 1.0, 10, rule=None) == 300


@pytest.mark.parametrize("rule", [RULE, None])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_ends_a_trial_at_once(rule: Divergence | None, bad: float) -> None:
    """Loss or gradient not finite, first batch or later, ends a trial with a reason of its own."""
    loss, gradient = "the training loss is not finite", "the gradient is not finite"
    for before in ([], [1.0, 1.0]):
        for batch, reason in (((bad, 1.0), loss), ((1.0, bad), gradient), ((bad, bad), loss)):
            judge = batch_judge(rule, 1.0)
            assert [judge(one, 1.0, 1) for one in before] == [None] * len(before)
            assert judge(*batch, 1) == Decision(Outcome.DIVERGED, reason)
    assert not_finite(1.0, 1.0) is None


def test_a_loss_of_zero_is_a_loss() -> None:
    """A loss of exactly zero has no logarithm and ends nothing."""
    assert judge_all([0.0] * 50, 0.0, 10) is None
    assert judge_all([1.0, *[0.0] * 50], 1.0, 10) is None
    assert judge_all([0.0, *[SMALLEST] * 50], 0.0, 10) is None


@given(st.lists(st.integers(0, 5).map(float), max_size=15), goals, st.integers(1, 6))
def test_patience_counts_exactly(values: list[float], goal: Goal, patience: int) -> None:
    """A trial ends at the first epoch that is so many after the best, and not one earlier."""
    ended = None
    for epoch in range(1, len(values) + 1):
        seen = values[:epoch]
        first_best = seen.index(min(seen) if goal.minimize else max(seen))
        decision = out_of_patience(seen, goal, patience)
        assert (decision is not None) == (epoch - 1 - first_best >= patience)
        ended = ended or decision
    if ended is not None:
        assert ended == Decision(Outcome.COMPLETE, f"no better for {patience} epochs")


@given(curves, goals)
def test_no_patience_is_endless(values: list[float], goal: Goal) -> None:
    """Patience 0 ends no trial."""
    assert out_of_patience(values, goal, 0) is None


@given(pruners, curves, st.lists(curves, max_size=9), goals, st.integers(0, 5), st.integers(1, 9))
def test_a_trial_is_pruned_below_the_best_of_its_peers(
    pruner: Pruner,
    values: list[float],
    peers: list[list[float]],
    goal: Goal,
    warmup: int,
    least: int,
) -> None:
    """Pruned is who is compared, has the peers, and is worse at best than the share that stays."""
    best = min if goal.minimize else max
    reached = [best(peer[: len(values)]) for peer in peers if len(peer) >= len(values) > 0]
    decision = worse_than_peers(pruner, values, peers, goal, warmup, least)
    if not values or not pruner.compares(len(values), warmup) or len(reached) < least:
        assert decision is None
    else:
        better = sum(goal.better(other, best(values)) for other in reached)
        if pruner.factor == 2:
            assert (decision is not None) == goal.better(statistics.median(reached), best(values))
        else:
            assert (decision is not None) == (better >= math.ceil(len(reached) / pruner.factor))
    if decision is not None:
        assert decision.outcome is Outcome.PRUNED
        assert f"{len(reached)} peers" in decision.reason


@given(st.lists(curves, max_size=9), goals, st.integers(1, 12))
def test_peers_are_remembered_by_the_best_they_had_reached(
    trials: list[list[float]], goal: Goal, epoch: int
) -> None:
    """Of trials that are over, as of those in training, the best value by an epoch is known."""
    known, best = Peers(goal), min if goal.minimize else max
    for values in trials:
        known.add(values)
    reached = sorted(best(values[:epoch]) for values in trials if len(values) >= epoch)
    assert known.reached(epoch) == reached
    assert sorted(Peers(goal).reached(epoch, trials)) == reached


@given(st.integers(1, 100), st.integers(0, 9))
def test_trials_are_compared_at_rungs_or_always(epoch: int, warmup: int) -> None:
    """Halving compares after the warm-up, then at 3, 9, 27 ... times as many epochs."""
    rungs = [(warmup + 1) * 3**power for power in range(6)]
    assert PRUNERS["halving"].compares(epoch, warmup) == (epoch in rungs)
    assert PRUNERS["median"].compares(epoch, warmup) == (epoch > warmup)


@given(pruners, st.lists(curves, max_size=12), st.data())
def test_peers_are_compared_at_equal_epochs(
    pruner: Pruner, peers: list[list[float]], data: st.DataObject
) -> None:
    """What peers did after the trial's epoch, and peers that never got there, change nothing."""
    values = data.draw(st.lists(st.integers(0, 9).map(float), min_size=1, max_size=8))
    until = len(values)
    later = [peer[:until] + [-100.0] * (len(peer) - until) for peer in peers]
    there = [peer for peer in peers if len(peer) >= until]
    decision = worse_than_peers(pruner, values, peers, MINIMIZE, 0, 5)
    assert decision == worse_than_peers(pruner, values, later, MINIMIZE, 0, 5)
    assert decision == worse_than_peers(pruner, values, there, MINIMIZE, 0, 5)


@given(pruners, curves, st.lists(curves, min_size=5, max_size=9), st.integers(0, 3))
def test_minimising_and_maximising_mirror_each_other(
    pruner: Pruner, values: list[float], peers: list[list[float]], patience: int
) -> None:
    """With every value negated and the other direction, the rules end the same trials."""
    flipped = [-value for value in values]
    others = [[-value for value in peer] for peer in peers]
    one = worse_than_peers(pruner, values, peers, MINIMIZE, 0, 5)
    other = worse_than_peers(pruner, flipped, others, MAXIMIZE, 0, 5)
    assert (one is None) == (other is None)
    assert out_of_patience(values, MINIMIZE, patience) == out_of_patience(
        flipped, MAXIMIZE, patience
    )


@pytest.mark.parametrize("name", list(PRUNERS))
def test_the_best_of_all_is_never_pruned(name: str) -> None:
    """A trial that is level with its peers, or ahead, goes on."""
    pruner, peers = PRUNERS[name], [[1.0, 1.0, 1.0, 1.0]] * 5
    assert worse_than_peers(pruner, [1.0] * 4, peers, MINIMIZE, 3, 5) is None
    assert worse_than_peers(pruner, [9.0, 9.0, 9.0, 0.5], peers, MINIMIZE, 3, 5) is None
    assert worse_than_peers(pruner, [2.0] * 4, peers, MINIMIZE, 3, 5) is not None
    assert worse_than_peers(pruner, [2.0] * 4, peers[:4], MINIMIZE, 3, 5) is None
    assert worse_than_peers(pruner, [2.0] * 3, peers, MINIMIZE, 3, 5) is None


trial_values = st.lists(st.none() | st.integers(0, 9).map(float), max_size=30)


@given(trial_values, goals, st.integers(0, 9).map(float))
def test_a_target_is_reached_by_a_value_as_good(
    values: list[float | None], goal: Goal, target: float
) -> None:
    """A study has reached its target exactly if some value is the target or better."""
    good = [value for value in values if value is not None and not goal.better(target, value)]
    reason = target_reached(values, goal, target)
    assert (reason is not None) == bool(good)
    if reason is not None:
        assert f"target {target:.4g}" in reason
    assert target_reached(values, goal, None) is None


@given(trial_values, goals, st.integers(1, 10))
def test_stagnation_means_that_the_last_trials_were_in_vain(
    values: list[float | None], goal: Goal, stagnation: int
) -> None:
    """A study has stagnated exactly if none of the last n beats the best of those before."""
    before = [value for value in values[:-stagnation] if value is not None]
    recent = [value for value in values[-stagnation:] if value is not None]
    in_vain = bool(before) and not any(
        all(goal.better(value, old) for old in before) for value in recent
    )
    assert (stagnated(values, goal, stagnation) is not None) == in_vain
    assert stagnated(values, goal, None) is None


@given(trial_values, goals, st.integers(1, 10), st.integers(0, 12))
def test_what_was_taken_along_is_not_in_vain(
    values: list[float | None], goal: Goal, stagnation: int, along: int
) -> None:
    """Of a fork only trials of its own can be in vain, beside the best of all."""
    along = min(along, len(values))
    own = len(values) - along
    in_vain = stagnated(values, goal, stagnation) is not None and own >= stagnation
    assert (stagnated(values, goal, stagnation, along) is not None) == in_vain


@given(trial_values, goals, st.integers(1, 10), st.integers(-5, 5))
def test_a_better_trial_ends_stagnation(
    values: list[float | None], goal: Goal, stagnation: int, extra: int
) -> None:
    """After a trial that beats all, a study has not stagnated; failures alone never make it so."""
    best = -1.0 if goal.minimize else 10.0
    assert stagnated([*values, best], goal, stagnation) is None
    assert stagnated([None] * (stagnation + extra), goal, stagnation) is None
    longer = stagnated([*values, best, *[None] * stagnation], goal, stagnation)
    assert longer is not None
    assert f"last {stagnation} trials" in longer


@pytest.mark.parametrize(
    ("peers", "last"), [(5, 2), (6, 2), (7, 3), (8, 3), (9, 3), (10, 4), (12, 4), (30, 10)]
)
def test_the_last_of_the_best_third_goes_on(peers: int, last: int) -> None:
    """Of so many peers a trial may be as good as this one, counted from the best, and no worse."""
    for goal in (Goal(), Goal("accuracy", minimize=False)):
        sign = 1.0 if goal.minimize else -1.0
        reached = sorted(sign * rank for rank in range(1, peers + 1))
        for value, ends in ((last, False), (last + 0.5, True)):
            verdict = PRUNERS["halving"].judge([sign * value], reached, goal, 5)
            assert (verdict is not None) == ends
