"""`rnn-search report`: a study → one HTML file, the same in Markdown, and its pictures beside."""

from __future__ import annotations

import datetime
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search import report_sections as sections
from search.certainty import read_certainty
from search.documents import GENERATOR, Document, to_html, to_markdown
from search.entries import make_clock, ranks, read_entries
from search.errors import RequestError, RunError
from search.importance import Tried, importances
from search.report import Summary, summarize
from search.report_answer import Material, answer
from search.report_ending import again, cost
from search.stored_study import StoredStudy
from search.whole_files import written_whole

HTML, MARKDOWN = "report.html", "report.md"
PICTURES = ("rate", "curves", "progress", "importance", "coordinates", "timeline")
FILES = (HTML, MARKDOWN, *(f"{name}.png" for name in PICTURES))
"""Everything that a report may consist of."""


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        html: The page that needs nothing else.
        markdown: The same in Markdown.
        pictures: Its pictures.
        material: What it says.
    """

    html: Path
    markdown: Path
    pictures: list[Path]
    material: Material

    def to_json(self) -> dict[str, Any]:
        """Returns what ``--json`` prints."""
        material = self.material
        return {
            "html": str(self.html),
            "markdown": str(self.markdown),
            "pictures": [str(path) for path in self.pictures],
            "answer": material.answer.number if material.answer else None,
            "how_sure": material.certainty.sentences,
            "importances": {
                one.name: {
                    "low": one.low,
                    "median": one.middle,
                    "high": one.high,
                    "chance": one.chance,
                }
                for one in material.importances
            },
            "summary": material.summary.to_json(),
        }


def report(stored: StoredStudy, folder: Path | None = None) -> Report:
    """Writes the report of a study; neither the study nor its data is touched.

    Args:
        stored: The study.
        folder: Where; None: ``report`` in the folder of the study's files.

    Raises:
        RequestError: Something else is in the way there, or it cannot be written.
        RunError: The disk is full.
    """
    folder = stored.folder / "report" if folder is None else folder
    require_free(folder)
    material = collect(stored, summarize(stored))
    document = compose(stored, material)
    pictures = {picture.file: picture.png for picture in document.pictures}
    # The page comes first: by it the next report knows that the rest is ours.
    texts = {HTML: to_html(document).encode(), MARKDOWN: to_markdown(document).encode()}
    _write(folder, {**texts, **pictures})
    return Report(folder / HTML, folder / MARKDOWN, [folder / name for name in pictures], material)


def collect(stored: StoredStudy, summary: Summary) -> Material:
    """Reads and computes all that a report says."""
    entries = read_entries(stored)
    ranked = ranks(entries, stored.goal)
    tried = [Tried(entry.line.params, rank) for entry, rank in ranked]
    return Material(
        summary=summary,
        entries=entries,
        ranked=ranked,
        importances=importances(tried, stored.config.space, stored.config.seed),
        certainty=read_certainty(stored, summary, entries),
        clock=make_clock(entries),
        goal=stored.goal,
        space=stored.config.space,
    )


def compose(stored: StoredStudy, material: Material) -> Document:
    """Returns the page."""
    summary = material.summary
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    version = importlib.metadata.version("rnn-search")
    return Document(
        f"{summary.name}: {summary.counts['total']} of {summary.target} trials, {summary.task}",
        [
            answer(material),
            sections.rates(material),
            sections.curves(material),
            sections.progress(material),
            sections.importance(material),
            sections.coordinates(material),
            sections.timeline(material),
            cost(material),
            again(material, stored),
        ],
        f"Written by rnn-search {version} at {now}.",
    )


def require_free(folder: Path) -> None:
    """Checks that a report may be written to ``folder``: nothing of ours is there, or a report.

    Raises:
        RequestError: A file of another's would be overwritten, or it is no folder.
    """
    try:
        taken = [name for name in FILES if (folder / name).exists()]
        if folder.exists() and not folder.is_dir():
            raise RequestError(f"{folder} is a file; give a folder: --out DIR")
        if taken and not _is_report(folder / HTML):
            raise RequestError(
                f"{folder / taken[0]} is not of a report by rnn-search; give another --out DIR"
            )
    except OSError as error:
        raise _refusal(folder, error) from None


def _is_report(page: Path) -> bool:
    if not page.is_file():
        return False
    with page.open("rb") as file:
        return GENERATOR.encode() in file.read(1000)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes each file whole or not at all, and removes pictures of an earlier report."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refusal(folder, error) from None
    try:
        for name, content in files.items():
            with written_whole(folder / name) as part:
                part.write_bytes(content)
        for name in set(FILES) - set(files):
            (folder / name).unlink(missing_ok=True)
    except PermissionError as error:
        raise _refusal(folder, error) from None
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}") from None


def _refusal(folder: Path, error: OSError) -> RequestError:
    return RequestError(f"{folder} cannot be used: {error.strerror}; give another --out DIR")
