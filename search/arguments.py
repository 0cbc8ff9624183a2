"""The values that arguments of the command line may have: text → number, or why not."""

from __future__ import annotations

import argparse
import math
import re


def count(text: str) -> int:
    """Reads a whole number from 1 on."""
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no whole number from 1 to 999999999")
    return int(text)


def stagnation(text: str) -> float:
    """Reads a number of trials, or ``none``: infinite."""
    return float("inf") if text == "none" else count(text)


def target(text: str) -> float:
    """Reads a finite number, or ``none``: not a number."""
    if text == "none":
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no finite number; none: no target")
    return value


def number(text: str) -> int:
    """Reads a trial's number, from 0."""
    if not re.fullmatch("[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no number of a trial: 0, 1, 2...")
    return int(text)


def temperature(text: str) -> float:
    """Reads a number from 0 on."""
    if not re.fullmatch(r"[0-9]{0,6}\.?[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no number from 0 on, such as 0.8")
    return float(text)


def seed(text: str) -> int:
    """Reads a seed, from 0 to 2^63 - 1."""
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no whole number from 0 to 2^63 - 1")
    return int(text)


def timeout(text: str) -> float:
    """Reads a duration in seconds, or ``none``: infinite."""
    from search.fields import seconds

    if text == "none":
        return float("inf")
    try:
        value = float(str(seconds(text)))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} leaves no time")
    return value
