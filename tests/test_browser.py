"""The dashboard in a real Chromium: what a person sees of a study, also while it runs.

`CHROMIUM` may name the browser; without one these tests fail, and say what to install.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from many import write_many
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tiny import epochs_reported, rnn_search, start, wait_until, write_study

from search.dashboard import Dashboard

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
SECONDS = 120_000
"""Milliseconds that a page may take: other work may be on the machine."""
COUNT = 2_000
LOADED = "img => img.complete && img.naturalWidth"


def chromium() -> str:
    """Returns the browser's path."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, filter(None, names)) if path), None)
    if found is None:
        pytest.fail(
            "the dashboard's tests need Chromium: apt-get install chromium, or set CHROMIUM to "
            "its path; to leave them out: pytest -m 'not browser'"
        )
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium without a window."""
    path = chromium()
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=arguments)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page on which nothing goes wrong, and which asks nobody but the dashboard."""
    opened = browser.new_page(viewport={"width": 1400, "height": 900})
    opened.set_default_timeout(SECONDS)
    expect.set_options(timeout=SECONDS)
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("request", lambda request: _check(request.url, faults))
    yield opened
    opened.close()
    assert faults == []


def _check(url: str, faults: list[str]) -> None:
    if not url.startswith(("http://127.0.0.1:", "data:", "blob:")):
        faults.append(f"asks {url}")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a search has come to its end."""
    folder = tmp_path_factory.mktemp("searched")
    study = write_study(folder, budget={"trials": 4})
    done = rnn_search(folder, "run", study, "--workers", 1)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def url(searched: Path) -> Iterator[str]:
    """Where a dashboard shows that search."""
    with Dashboard(f"sqlite:///{searched}/studies/studies.db") as dashboard:
        yield dashboard.url


def show_picture(page: Page) -> None:
    """Waits for a trial's picture in its note, whole and in its size."""
    picture = page.get_by_alt_text("training and validation loss")
    expect(picture).to_be_visible()
    page.wait_for_function(LOADED, arg=picture.element_handle())
    assert picture.evaluate("img => [img.naturalWidth, img.naturalHeight]") == [640, 360]


def test_the_list_of_studies(page: Page, url: str) -> None:
    """The first page lists the study, and leads to it."""
    page.goto(url)
    page.get_by_text("1. tiny").click()
    expect(page.get_by_text("Hyperparameter Importance").first).to_be_visible()


def test_a_study(page: Page, url: str) -> None:
    """A study's page has its best trial and both of our plots; its note has words and counts."""
    page.goto(f"{url}dashboard/studies/1")
    expect(page.get_by_text("Best Trial (number=")).to_be_visible()
    expect(page.get_by_text("learning rate against loss")).to_be_visible()
    expect(page.get_by_text("validation loss of the best")).to_be_visible()
    page.goto(f"{url}dashboard/studies/1/note")
    expect(page.get_by_text("4 of 4 trials finished")).to_be_visible()
    expect(page.get_by_role("columnheader", name="what to do")).to_be_visible()
    expect(page.get_by_text("Best: trial")).to_be_visible()


def test_a_trial(page: Page, url: str) -> None:
    """A trial's page has its note, with the finding in words, and the picture of its curve."""
    page.goto(f"{url}dashboard/studies/1/trials?numbers=0")
    expect(page.get_by_role("heading", name="Trial 0")).to_be_visible()
    expect(page.get_by_text("Best epoch")).to_be_visible()
    expect(page.locator("p", has_text="complete: trained 4 epochs")).to_be_visible()
    show_picture(page)
    expect(page.get_by_text("curve.png").first).to_be_visible()


@pytest.mark.slow
def test_a_search_while_it_runs(page: Page, tmp_path: Path) -> None:
    """While a search runs, its trials appear by themselves, each with its picture when over."""
    space = {"epochs": {"low": 30, "high": 40}, "hidden_units": {"low": 4, "high": 8}}
    study = write_study(tmp_path, rows=600, space=space, budget={"trials": 5000})
    search = start(tmp_path, "run", study, "--workers", 1)
    try:
        wait_until(lambda: epochs_reported(tmp_path) > 0 or search.poll() is not None, "an epoch")
        with Dashboard(f"sqlite:///{tmp_path}/studies/studies.db") as dashboard:
            page.goto(f"{dashboard.url}dashboard/studies/1/trials?numbers=0")
            expect(page.get_by_text("Intermediate Values")).to_be_visible()
            # Without loading the page again.
            expect(page.get_by_text("Trial 2", exact=True)).to_be_visible()
            page.goto(f"{dashboard.url}dashboard/studies/1/trials?numbers=0")
            show_picture(page)
            assert search.poll() is None, "the search ended before it was looked at"
    finally:
        search.send_signal(signal.SIGINT)
        assert search.wait(timeout=120) == 130


@pytest.mark.slow
def test_two_thousand_trials(page: Page, tmp_path: Path) -> None:
    """A study of 2 000 trials, each with note and picture, opens, and so does its last trial."""
    stored = write_many(tmp_path, COUNT)
    with Dashboard(str(stored.database)) as dashboard:
        page.goto(f"{dashboard.url}dashboard/studies/1")
        expect(page.get_by_text("Best Trial (number=")).to_be_visible()
        page.goto(f"{dashboard.url}dashboard/studies/1/trials?numbers={COUNT - 1}")
        expect(page.get_by_text("2000 Trials")).to_be_visible()
        expect(page.get_by_text("Best epoch 12 of 12")).to_be_visible()
        show_picture(page)
