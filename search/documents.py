"""A page as blocks of plain text → Markdown, and one HTML file that needs nothing else.

Whatever stands in a block may have come from a user's file: all of it is escaped here, once.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

GENERATOR = '<meta name="generator" content="rnn-search report">'
"""Tells a report of ours from other people's pages."""


@dataclass(frozen=True)
class Paragraph:
    """A few sentences; ``lead``: those that everybody should read."""

    text: str
    lead: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings; numbers are right-aligned, ``bold`` rows stand out.

    Raises:
        ValueError: A row has another number of cells than there are headings.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    bold: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if any(len(row) != len(self.headings) for row in self.rows):
            raise ValueError("a row of a table has too few cells or too many")

    def is_numeric(self, column: int) -> bool:
        """True if every cell of a column is a number with a unit, a dash, or empty."""
        cells = [row[column] for row in self.rows if row[column]]
        return bool(cells) and all(NUMBER.match(cell) for cell in cells)


NUMBER = re.compile(r"[-#≈]?[0-9.]+(e[-+]?[0-9]+)?( |$|/)|-$")


@dataclass(frozen=True)
class Code:
    """Text to be copied as it is."""

    text: str
    language: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG.

    Attributes:
        file: Its name beside the page.
        png: Its bytes.
        about: What it shows, for those who cannot see it.
    """

    file: str
    png: bytes
    about: str


Block = Paragraph | Bullets | Table | Code | Picture


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A page."""

    title: str
    sections: Sequence[Section]
    footer: str

    @property
    def pictures(self) -> list[Picture]:
        """All pictures, in order."""
        blocks = (block for section in self.sections for block in section.blocks)
        return [block for block in blocks if isinstance(block, Picture)]


def to_markdown(document: Document) -> str:
    """Returns the page in Markdown; its pictures are files beside it."""
    parts = [f"# {_mark(document.title)}"]
    for section in document.sections:
        parts.append(f"## {_mark(section.title)}")
        parts += [_markdown_block(block) for block in section.blocks]
    parts.append(f"---\n\n{_mark(document.footer)}")
    return "\n\n".join(parts) + "\n"


def _markdown_block(block: Block) -> str:
    if isinstance(block, Paragraph):
        return f"**{_mark(block.text)}**" if block.lead else _mark(block.text)
    if isinstance(block, Bullets):
        return "\n".join(f"- {_mark(item)}" for item in block.items)
    if isinstance(block, Picture):
        return f"![{_mark(block.about)}]({block.file})"
    if isinstance(block, Code):
        longest = max((len(run) for run in re.findall("`+", block.text)), default=0)
        fence = "`" * max(3, longest + 1)
        return f"{fence}{block.language}\n{block.text.rstrip()}\n{fence}"
    rule = ["---:" if block.is_numeric(i) else "---" for i in range(len(block.headings))]
    rows = [[_mark(cell) for cell in row] for row in block.rows]
    for place in block.bold:
        rows[place] = [f"**{cell}**" if cell else cell for cell in rows[place]]
    lines = [[_mark(heading) for heading in block.headings], rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mark(text: str) -> str:
    """Escapes what Markdown, or HTML within it, would take for more than text; one line."""
    plain = html.escape(" ".join(text.split()), quote=False)
    return re.sub(
        r"([\\`*\[\]|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<!&)#(?![0-9]))", r"\\\1", plain
    )


def to_html(document: Document) -> str:
    """Returns the page as one HTML file: its pictures are in it, and it runs no script."""
    title = html.escape(document.title)
    body = [f"<h1>{title}</h1>"]
    for section in document.sections:
        blocks = "\n".join(_html_block(block) for block in section.blocks)
        body.append(f"<section>\n<h2>{html.escape(section.title)}</h2>\n{blocks}\n</section>")
    footer = f"<footer>{html.escape(document.footer)}</footer>"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{GENERATOR}\n'
        f"{POLICY}\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + f"\n{footer}\n</main>\n</body>\n</html>\n"
    )


def _html_block(block: Block) -> str:
    if isinstance(block, Paragraph):
        start = '<p class="lead">' if block.lead else "<p>"
        return f"{start}{html.escape(block.text)}</p>"
    if isinstance(block, Bullets):
        items = "".join(f"<li>{html.escape(item)}</li>" for item in block.items)
        return f"<ul>{items}</ul>"
    if isinstance(block, Code):
        return f"<pre><code>{html.escape(block.text)}</code></pre>"
    if isinstance(block, Picture):
        coded = base64.b64encode(block.png).decode("ascii")
        image = f'<img src="data:image/png;base64,{coded}" alt="{html.escape(block.about)}">'
        return f'<figure tabindex="0">{image}</figure>'
    return _html_table(block)


def _html_table(table: Table) -> str:
    kinds = [' class="number"' if table.is_numeric(i) else "" for i in range(len(table.headings))]
    head = "".join(
        f'<th scope="col"{kind}>{html.escape(heading)}</th>'
        for heading, kind in zip(table.headings, kinds, strict=True)
    )
    lines = []
    for place, row in enumerate(table.rows):
        cells = "".join(
            f"<td{kind}>{html.escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)
        )
        lines.append(f"<tr{' class=bold' if place in table.bold else ''}>{cells}</tr>")
    rows = "\n".join(lines)
    wide = "table wide" if len(table.headings) > 8 else "table"
    return (
        f'<div class="{wide}" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "img-src data:; style-src 'unsafe-inline'\">"
)
STYLE = """:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #1b1b1b;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 55rem; margin: 0 auto; padding: 1rem 1.25rem 3rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 1rem 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid #d5d5d5; }
p, ul { max-width: 46rem; margin: .6rem 0; overflow-wrap: anywhere; }
p.lead { font-size: 1.12rem; }
.table, figure, pre { overflow-x: auto; margin: .9rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .22rem 1.1rem .22rem 0; border-bottom: 1px solid #e6e6e6;
  vertical-align: top; }
th { border-bottom-color: #8c8c8c; font-weight: 600; }
td:first-child { min-width: 6.5rem; }
.wide td:first-child { min-width: 0; }
.wide table { font-size: .82rem; }
.wide th, .wide td { padding-right: .7rem; white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
tr.bold td { font-weight: 600; }
img { display: block; width: 100%; min-width: 36rem; height: auto; }
pre { background: #f5f5f3; padding: .75rem 1rem; font-size: .85rem; line-height: 1.4; }
code { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
footer { margin-top: 3rem; color: #5b5b5b; font-size: .85rem; }
@media print { .table, figure, pre { overflow: visible; } pre { white-space: pre-wrap; }
  section { break-inside: avoid-page; } img { min-width: 0; } }
"""
