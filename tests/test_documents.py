"""Documents: whatever stands in them is shown as it is, in Markdown and in HTML."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from search.documents import (
    Bullets,
    Code,
    Document,
    Paragraph,
    Picture,
    Section,
    Table,
    to_html,
    to_markdown,
)

NASTY = "<script>alert(1)</script> & | `a` **b** _c_ [d](http://e) ![f](g) ~h~ <i> \\ # &amp; $x$"
WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1
).map(lambda text: " ".join(text.split()))


def shown(page: str) -> str:
    """Returns what a browser shows of HTML as text, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def rendered(text: str) -> str:
    """Returns a Markdown page as HTML, as GitHub and others render it: raw HTML is let through."""
    return str(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text))


@given(WORDS)
@example(NASTY)
@example("a_b _c 1_000 #1 ##")
def test_text_is_shown_as_it_is(words: str) -> None:
    """Any text in a paragraph, a list, a table or code comes out as the same text, unformatted."""
    blocks = [
        Paragraph(f"x {words}"),
        Bullets([f"x {words}"]),
        Table(["y", "x"], [["y", f"x {words}"]]),
        Code(words),
    ]
    document = Document("t", [Section("s", blocks)], "f")
    for page in (to_html(document), rendered(to_markdown(document))):
        body = page.partition("</style>")[2] or page
        tags = set(re.findall(r"</?([a-z0-9]+)", body))
        known = (
            "h1 h2 p ul li table thead tbody tr th td pre code hr section div main body html head"
        )
        assert tags <= {*known.split(), "footer"}
        assert shown(body).count(" ".join(f"x {words}".split())) >= 3


def test_code_may_hold_fences() -> None:
    """A fence within code does not end it."""
    inner = "```\nnot the end\n````\n# no heading"
    page = rendered(to_markdown(Document("t", [Section("s", [Code(inner)])], "f")))
    assert page.count("<code") == 1
    assert "<h1>no" not in page
    assert html.escape(inner) in page


def test_pictures_are_in_the_page_and_beside_the_markdown() -> None:
    """HTML holds the picture, Markdown names its file; both tell the blind what it shows."""
    picture = Picture("a.png", b"\x89PNG", 'about "it" <b>')
    document = Document("t", [Section("s", [picture])], "f")
    page, text = to_html(document), to_markdown(document)
    assert 'src="data:image/png;base64,iVBORw==" alt="about &quot;it&quot; &lt;b&gt;"' in page
    assert "](a.png)" in text
    assert 'alt="about &quot;it&quot; &lt;b&gt;"' in rendered(text)
    assert document.pictures == [picture]


def test_columns_of_numbers_are_aligned() -> None:
    """Columns of numbers, with units or not, are set to the right; words and lists are not."""
    table = Table(
        ["a", "b", "c", "d", "e"],
        [["#1", "97.1 %", "16, 32", "rnn", "3 min 20 s"], ["#2", "", "5", "7 up", "1e-05"]],
    )
    kinds = [table.is_numeric(column) for column in range(5)]
    assert kinds == [True, True, False, False, True]
    with pytest.raises(ValueError, match="too few cells"):
        Table(["a"], [["1", "2"]])
