"""The last two sections of a report: what it all cost, and all that it takes to do it again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

import tomli_w

from search.documents import Block, Bullets, Code, Paragraph, Section, Table
from search.entries import Entry
from search.report_answer import Material
from search.stored_study import StoredStudy
from search.trial import Outcome
from search.wording import count_of, duration, trusting

OUTCOMES = (
    Outcome.COMPLETE,
    Outcome.PRUNED,
    Outcome.DIVERGED,
    Outcome.OUT_OF_MEMORY,
    Outcome.FAILED,
    "running",
    Outcome.INTERRUPTED,
    "waiting",
)
NOT_COUNTED = "-"
"""The time of trials that is not known: it is stored when a trial is over."""
TOLD = 10
"""Failures that are told one by one."""


def cost(material: Material) -> Section:
    """What was pruned, diverged, failed, and what it cost."""
    entries = [entry for entry in material.entries if not entry.along]
    whole = sum(entry.line.cost or 0.0 for entry in entries)
    rows = [_row(str(outcome), _of(entries, outcome), whole) for outcome in OUTCOMES]
    rows = [row for row in rows if row[1] != "0"]
    rows.append(_row("together", entries, whole))
    headings = ["outcome", "trials", "epochs", "training time", "share of the time"]
    blocks: list[Block] = [Table(headings, rows, frozenset({len(rows) - 1}))]
    untimed = sum(entry.begun is not None and entry.ended is None for entry in entries)
    along = len(material.entries) - len(entries)
    if along:
        blocks.append(
            Paragraph(f"Not counted: what {count_of(along, 'trial')} taken along had cost before.")
        )
    if untimed:
        said = "1 trial that is" if untimed == 1 else f"{untimed} trials that are"
        blocks.append(Paragraph(f"Not counted: the time of {said} not over."))
    pruned = _of(entries, Outcome.PRUNED)
    wanted = sum(int(entry.line.params.get("epochs", 0)) for entry in pruned)
    trained = sum(entry.line.epochs for entry in pruned)
    if wanted > trained:
        blocks.append(Paragraph(f"Pruned trials had asked for {wanted} epochs and got {trained}."))
    reasons = [
        [outcome, reason, str(count)]
        for outcome, counted in material.summary.reasons.items()
        for reason, count in counted.items()
    ]
    if reasons:
        blocks += [
            Paragraph("Why they ended:"),
            Table(["outcome", "reason", "trials"], reasons[:20]),
        ]
    return Section("What it cost", [*blocks, *_failures(_of(entries, Outcome.FAILED))])


def _of(entries: Sequence[Entry], outcome: str) -> list[Entry]:
    return [entry for entry in entries if entry.line.outcome == outcome]


def _row(name: str, entries: Sequence[Entry], whole: float) -> list[str]:
    known = [entry.line.cost for entry in entries if entry.line.cost is not None]
    time = duration(sum(known)) if known else NOT_COUNTED
    share = f"{100 * sum(known) / whole:.0f} %" if known and whole > 0 else ""
    epochs = sum(entry.line.epochs for entry in entries)
    return [name.replace("-", " "), str(len(entries)), str(epochs), time, share]


def _failures(failed: Sequence[Entry]) -> list[Block]:
    """Tells the last words of the first failures."""
    told = [
        f"#{entry.line.number}: {entry.line.traceback.strip().splitlines()[-1]}"
        for entry in failed
        if entry.line.traceback.strip()
    ][:TOLD]
    if not told:
        return []
    more = f"; the first {TOLD} of {len(failed)}" if len(failed) > TOLD else ""
    return [Paragraph(f"Their last words{more}:"), Bullets(told)]


def again(material: Material, stored: StoredStudy) -> Section:
    """Everything needed to do it again."""
    config, attributes = stored.config, stored.attributes
    file = f"{config.name}.toml"
    rows = _surroundings(stored)
    facts = [
        ["seed", str(config.seed)],
        ["fingerprint of the data", str(attributes["data"])],
        ["storage", str(stored.database)],
        ["files", str(stored.folder)],
        ["created", str(attributes.get("created", "not recorded"))],
        *rows,
    ]
    fork = attributes.get("fork")
    said = (
        f"Save this as {file}, with the same data at the same place. With one worker, on a CPU of "
        "the same kind and with the same versions, it gives the same trials bit for bit; with "
        "several, proposals depend on which trial ends first."
    )
    if any(name == "layers" for name, _ in rows):
        said += (
            " Large LSTM layers are those that were measured to be the quicker on a machine "
            "(layers), which may be others there: last digits then differ."
        )
    if fork:
        taken = f"{count_of(fork['taken'], 'trial')} of '{fork['study']}'"
        said = f"It began with {taken} (--fork), which this file alone does not give again."
    return Section(
        "Do it again",
        [
            Code("\n".join(_commands(material, stored, "" if fork else file)), "sh"),
            Paragraph(said),
            Code(tomli_w.dumps(config.resolved()), "toml"),
            Table(["what", "value"], facts),
        ],
    )


def _commands(material: Material, stored: StoredStudy, file: str) -> list[str]:
    """Returns what to type: from nothing, if there is a file, and with the study as it is."""
    name, line, trust = stored.config.name, material.answer, trusting(stored.config)
    begin = f"rnn-search run {file} --workers 1 --device cpu{trust}"
    anew = ["# from nothing, in an empty folder", begin, ""]
    where = str(stored.database)
    if stored.database.has_password:
        here = [f"# with this study; RNN_SEARCH_STORAGE is set to {where}, with the password"]
    else:
        here = ["# with this study", f"export RNN_SEARCH_STORAGE={shlex.quote(where)}"]
    commands = [*(anew if file else []), *here]
    if line is None:  # `evaluate` refuses a study without a complete trial
        return [*commands, f"rnn-search show {name}"]
    # The winner of an evaluation has networks of its own, the others those that `keep` allows.
    which = "--ensemble" if material.certainty.looks else f"--trial {line.number}"
    kept = material.certainty.looks or stored.config.keep > 0
    return [
        *commands,
        f"rnn-search evaluate {name}{_as_before(material)}{trust}",
        f"rnn-search replay {name} {line.number}{trust}",
        *([f"rnn-search export {name} model {which}{trust}"] if kept else []),
    ]


def _as_before(material: Material) -> str:
    """Returns the options of the last evaluation, with which it trains nothing anew."""
    looks = material.certainty.looks
    candidates = looks[-1].get("candidates", []) if looks else []
    if not candidates:
        return ""
    most = max(one["complete"] + one["failed"] for one in candidates)
    return f" --top {len(candidates)} --seeds {most}"


def _surroundings(stored: StoredStudy) -> list[list[str]]:
    """Returns what the trials were computed with; where they differ, how many had what."""
    found = [trial.user_attrs.get("surroundings") for trial in stored.trials()]
    known: list[dict[str, Any]] = [one for one in found if isinstance(one, dict)]
    known = known or [stored.attributes["versions"]]
    rows = []
    for name in dict.fromkeys(name for one in known for name in one):
        # Of most networks there is nothing to choose.
        asked = [one for one in known if name != "layers" or name in one]
        counted = Counter(str(one.get(name, "not recorded")) for one in asked)
        several = len(counted) > 1
        words = [
            f"{value} ({n} trials)" if several else value for value, n in counted.most_common()
        ]
        rows.append([name, ", ".join(words)])
    return rows
