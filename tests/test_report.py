"""`rnn-search report`: the page, its order, its honesty, and odd studies that it must bear."""

from __future__ import annotations

import base64
import io
import re
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from made import made_study, made_trial, many_trials
from optuna.trial import FrozenTrial, TrialState
from PIL import Image
from refusing import require_refusal
from tiny import files_of, read_json, rnn_search, tiny_config, write_study

from search.cli import main
from search.config import StudyConfig, make_config
from search.database import Database
from search.reporting import HTML, MARKDOWN, report
from search.storage import open_study
from search.trial import Outcome

HEADINGS = [
    "The answer",
    "Loss against learning rate",
    "Curves of the best and of each finding",
    "Progress",
    "Which hyperparameters matter",
    "Where the best trials lie",
    "Who trained what when",
    "What it cost",
    "Do it again",
]
SCRIPT = "<script>alert('x')</script>"


def check_page(folder: Path) -> tuple[str, str]:
    """Checks what holds for every report; returns its HTML and its Markdown.

    It names no address outside itself, holds no script, has all sections in their order, and the
    pictures in it and beside it are the same PNGs.
    """
    page, text = ((folder / name).read_text(encoding="utf-8") for name in (HTML, MARKDOWN))
    assert re.findall(r"<h2>(.*?)</h2>", page) == HEADINGS
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    assert "<script" not in page
    assert "<script" not in text
    targets = re.findall(r"""(?:src|href|url|action)\s*[=(]\s*["']?([^"' >)]+)""", page)
    assert all(target.startswith("data:image/png;base64,") for target in targets)
    # The policy forbids the browser whatever is overlooked here.
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    inside = [base64.b64decode(target.partition(",")[2]) for target in targets]
    beside = re.findall(r"^!\[.*\]\((.*)\)$", text, re.MULTILINE)
    assert [(folder / name).read_bytes() for name in beside] == inside
    assert {path.name for path in folder.iterdir()} == {HTML, MARKDOWN, *beside}
    for png in inside:
        with Image.open(io.BytesIO(png)) as image:
            assert image.format == "PNG"
            assert image.width > 600
            assert len(image.convert("L").getcolors() or []) > 4, "there is nothing on it"
    return page, text


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study that has run."""
    folder = tmp_path_factory.mktemp("report")
    write_study(folder, budget={"trials": 4})
    run = rnn_search(folder, "run", "tiny.toml", "--workers", 1)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture
def here(studied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The study in a folder of the test's own, which is the current one."""
    shutil.copytree(studied / "studies", tmp_path / "studies")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)
    return tmp_path


def test_report_of_a_study_that_ran(
    here: Path, studied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page is by the study's files, has the best trial first, and the data as `check` has."""
    assert main(["check", str(studied / "tiny.toml"), "--json"]) == 0
    described = read_json(capsys.readouterr().out)["data"]
    assert main(["show", "tiny", "--json"]) == 0
    shown = read_json(capsys.readouterr().out)
    assert shown["data"] == described
    best = shown["best"]
    (data,) = studied.glob("*.csv")
    away = data.rename(data.with_suffix(".away"))
    try:
        assert main(["report", "tiny", "--json"]) == 0
    finally:
        away.rename(data)
    said = read_json(capsys.readouterr().out)
    (folder,) = here.glob("studies/studies.trials/tiny-*/report")
    assert (here / said["html"], here / said["markdown"]) == (folder / HTML, folder / MARKDOWN)
    page, text = check_page(folder)
    assert [Path(path).name for path in said["pictures"]] == re.findall(r"\]\((.*\.png)\)", text)
    assert (said["answer"], said["summary"]["best"]["number"]) == (best["number"],) * 2
    assert f"#{best['number']}, the best of 4 trials, by its loss: validation rmse" in page
    assert "persistence" in text
    windows = next(line for line in described if line.startswith("windows of "))
    assert f"\n- {windows}\n" in text.replace("\\", "")
    assert "rnn-search evaluate tiny" in " ".join(said["how_sure"])


def test_report_says_where_it_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without ``--json`` the paths are printed; ``--out`` puts the files where one wants them."""
    assert main(["report", "tiny", "--out", "deep/folder"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == str(Path("deep/folder/report.html"))
    check_page(here / "deep" / "folder")


def test_report_holds_what_it_takes_to_do_it_again(here: Path, tmp_path: Path) -> None:
    """The study file, seed, fingerprint and versions are in it, and the file is a study file."""
    stored = open_study(Database("sqlite:///studies/studies.db", create=False), "tiny")
    report(stored, tmp_path / "out")
    text = check_page(tmp_path / "out")[1]
    (toml,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert make_config(tomllib.loads(toml), "report").resolved() == stored.config.resolved()
    assert stored.attributes["data"] in text
    for name, version in stored.attributes["versions"].items():
        assert f"| {name} | {version} |" in text.replace("\\", "")
    assert f"rnn-search replay tiny {stored.study.best_trial.number}" in text


def test_report_changes_nothing_in_the_study(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the study in the database nor a file of its trials is another afterwards."""

    def look() -> tuple[str, dict[str, bytes]]:
        assert main(["show", "tiny", "--json"]) == 0
        return capsys.readouterr().out, files_of(here)

    before = look()
    assert main(["report", "tiny", "--out", "out"]) == 0
    capsys.readouterr()
    assert look() == before


def test_one_trial(tmp_path: Path) -> None:
    """A study of one trial has its answer, and says that there is nothing to compare it with."""
    config = tiny_config(tmp_path)
    written = report(made_study(tmp_path, [made_trial(config, 0)]), tmp_path / "out")
    _, text = check_page(tmp_path / "out")
    assert "#0, the only trial: validation rmse 0.6325 at epoch 3 of 3." in text
    assert "of no use yet: the naive method ridge is better, with 0.2." in text
    assert "No other configuration has completed" in text
    assert "Too few trials to say: 1 were judged" in text
    assert "nothing to compare" in text
    assert written.to_json()["importances"] == {}


@pytest.mark.parametrize(
    ("outcome", "valid", "said"),
    [
        (Outcome.DIVERGED, (), "most diverged: search smaller learning rates"),
        (Outcome.DIVERGED, (1e30, None), "most diverged: search smaller learning rates"),
        (Outcome.FAILED, (), "most failed: the reasons are below"),
        (Outcome.OUT_OF_MEMORY, (), "most ran out of memory"),
        (Outcome.PRUNED, (0.5, 0.6), "most did worse than their peers"),
    ],
)
def test_no_complete_trial(
    tmp_path: Path, outcome: Outcome, valid: tuple[float | None, ...], said: str
) -> None:
    """A study without a complete trial has no answer, says so, and says what might help."""
    config = tiny_config(tmp_path)
    trials = [made_trial(config, number, outcome, valid) for number in range(3)]
    written = report(made_study(tmp_path, trials), tmp_path / "out")
    _, text = check_page(tmp_path / "out")
    assert f"No trial of 3 has completed, so there is no answer. Of these {said}" in text
    assert written.to_json()["answer"] is None
    assert f"| {str(outcome).replace('-', ' ')} | 3 |" in text
    assert "rnn-search show tiny" in text
    assert "rnn-search evaluate" not in text


def test_findings_without_a_curve_are_counted(tmp_path: Path) -> None:
    """Where every trial diverged in its first epoch there is no curve, but there are findings."""
    config = tiny_config(tmp_path)
    trials = [made_trial(config, number, Outcome.DIVERGED, ()) for number in range(3)]
    report(made_study(tmp_path, trials), tmp_path / "out")
    _, text = check_page(tmp_path / "out")
    assert "No trial has finished an epoch, so there is no curve." in text
    assert "| diverging | 3 |" in text


def test_what_peers_ended_early_is_no_finding(tmp_path: Path) -> None:
    """Of trials that their peers ended after two epochs nobody hears that they want more."""
    config = tiny_config(tmp_path)
    ends = (Outcome.PRUNED, Outcome.PRUNED, Outcome.COMPLETE)
    trials = [made_trial(config, n, end, [1.0, 0.8, 0.6]) for n, end in enumerate(ends)]
    stored = made_study(tmp_path, trials)
    report(stored, tmp_path / "out")
    assert "| still-falling | 1 |" in check_page(tmp_path / "out")[1]


def interrupted(config: StudyConfig, number: int, valid: Sequence[float]) -> FrozenTrial:
    """Returns a trial whose run was killed after these epochs: only its values are stored."""
    trial = made_trial(config, number, Outcome.PRUNED, valid)
    trial.state, trial.datetime_complete, trial.user_attrs = TrialState.RUNNING, None, {}
    return trial


def test_only_interrupted_trials(tmp_path: Path) -> None:
    """Where no trial is over, that is said, with the epochs there are; their time is not 0 s."""
    config = tiny_config(tmp_path)
    trials = [interrupted(config, 0, [0.5, 0.4]), interrupted(config, 1, [0.7])]
    report(made_study(tmp_path, trials), tmp_path / "out")
    _, text = check_page(tmp_path / "out")
    far = "No trial is over yet (3 epochs trained so far), so there is "
    assert f"{far}nothing to draw." in text
    assert f"{far}no curve." in text
    assert "most wait to go on: rnn-search resume tiny." in text
    assert re.search(r"^\| interrupted \| 2 \| 3 \| \\?- \|  \|$", text, re.MULTILINE)
    assert "Not counted: the time of 2 trials that are not over." in text


def test_time_of_interrupted_trials_is_not_counted(tmp_path: Path) -> None:
    """Beside trials that are over, an interrupted one has neither a time nor a share of it."""
    config = tiny_config(tmp_path)
    trials = [made_trial(config, 0), interrupted(config, 1, [0.7])]
    report(made_study(tmp_path, trials), tmp_path / "out")
    _, text = check_page(tmp_path / "out")
    assert "| complete | 1 | 3 | 2 s | 100 % |" in text
    assert re.search(r"^\| interrupted \| 1 \| 1 \| \\?- \|  \|$", text, re.MULTILINE)
    assert "Not counted: the time of 1 trial that is not over." in text


def test_no_trial(tmp_path: Path) -> None:
    """A study that has not begun has a report, which says so."""
    report(made_study(tmp_path), tmp_path / "out")
    assert "No trial has been trained yet" in check_page(tmp_path / "out")[1]


def test_what_users_write_is_escaped(tmp_path: Path) -> None:
    """Scripts in notes, reasons and tracebacks are shown as they are written, and do not run."""
    config = tiny_config(tmp_path)
    failed = made_trial(
        config,
        0,
        Outcome.FAILED,
        (),
        reason=f"bad | {SCRIPT}",
        traceback=f"Trace\nError: `{SCRIPT}`",
    )
    stored = made_study(tmp_path, [failed], [f"column {SCRIPT} has **no** values\n# oh"])
    report(stored, tmp_path / "out")
    page, text = check_page(tmp_path / "out")
    assert page.count("&lt;script&gt;") == 3
    assert text.count("&lt;script&gt;") == 3
    assert "\n# oh" not in text
    assert r"\*\*no\*\*" in text
    assert r"bad \| &lt;script" in text


def test_trials_without_findings_are_diagnosed(tmp_path: Path) -> None:
    """Trials of studies that are older than findings get theirs from their stored curves."""
    config = tiny_config(tmp_path)
    falling = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    rising = [0.5, 0.3, 0.2, 0.4, 0.6, 0.8, 1.0]
    stored = made_study(
        tmp_path,
        [
            made_trial(config, 0, valid=falling),
            made_trial(config, 1, valid=rising, finding="plateau", evidence={}, advice="rest"),
            made_trial(config, 2, Outcome.DIVERGED, (3.0, 4.0)),
        ],
    )
    report(stored, tmp_path / "out")
    _, text = check_page(tmp_path / "out")
    for row in ("| still-falling | 1 |", "| plateau | 1 |", "| diverging | 1 |"):
        assert row in text


@pytest.mark.slow
def test_what_is_drawn_of_failures_and_after_the_best(tmp_path: Path) -> None:
    """A failed trial's loss is not drawn, a diverged one is; trials after the best are counted."""
    config = tiny_config(tmp_path)
    ends = [(Outcome.COMPLETE, [0.9]), (Outcome.COMPLETE, [0.2]), (Outcome.FAILED, [0.1])]
    trials = [made_trial(config, at, *end) for at, end in enumerate([*ends, *ends[:1]])]
    diverged = made_trial(config, 4, Outcome.DIVERGED, ())
    report(made_study(tmp_path, [*trials, diverged]), tmp_path / "out")
    _, text = check_page(tmp_path / "out")
    assert "Validation loss of 4 trials against their learning rates" in text
    assert "The best trial was #1; 3 came after it." in text


def test_five_thousand_trials(tmp_path: Path) -> None:
    """The page of 5 000 trials is small, and finds what matters."""
    stored = made_study(tmp_path, many_trials(tiny_config(tmp_path), 5000))
    written = report(stored, tmp_path / "out")
    _, text = check_page(tmp_path / "out")
    assert (tmp_path / "out" / HTML).stat().st_size < 3e6
    first = written.material.importances[0]
    assert (first.name, first.matters) == ("learning_rate", True)
    assert "5000 of" in text


def test_follow_ups_are_counted(tmp_path: Path) -> None:
    """The page says how many trials followed advice, and how many of them were better for it."""
    config = tiny_config(tmp_path)
    stored = made_study(
        tmp_path,
        [
            made_trial(config, 0, valid=[0.9, 0.5]),
            made_trial(config, 1, valid=[0.9, 0.4], follows=0),
            made_trial(config, 2, Outcome.PRUNED, valid=[0.9, 0.7], follows=0),
            made_trial(config, 3, valid=[0.9, 0.5], follows=0),
        ],
    )
    report(stored, tmp_path / "out")
    said = "Trials that followed the advice on another: 3; better than it: 1."
    assert said in check_page(tmp_path / "out")[1]


def test_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    """A second report replaces the first; pictures that it does not have are gone."""
    config = tiny_config(tmp_path)
    report(made_study(tmp_path, [made_trial(config, n) for n in range(3)]), tmp_path / "out")
    assert (tmp_path / "out" / "coordinates.png").exists()
    other = tmp_path / "other"
    other.mkdir()
    report(made_study(other, [made_trial(config, 0)]), tmp_path / "out")
    check_page(tmp_path / "out")
    assert not (tmp_path / "out" / "coordinates.png").exists()


def test_other_peoples_files_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page of somebody else's, or a file for a folder: one line, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)
    made_study(tmp_path)
    (tmp_path / "mine").mkdir()
    for file in ("mine/report.md", "file"):
        (tmp_path / file).write_text("my own")
    for arguments, said in (
        (("tiny", "--out", "mine"), ("mine/report.md", "--out")),
        (("tiny", "--out", "file"), ("file is a file", "--out")),
        (("tiny", "--out", "file/below"), ("file/below", "--out")),
        (("tiyn",), ("no study 'tiyn'", "tiny")),
    ):
        require_refusal(main(["report", *arguments]), capsys.readouterr().err, said)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["report.md"]
    assert (tmp_path / "mine" / "report.md").read_text() == "my own"
    assert not list(tmp_path.glob("studies/*.trials/*"))


def test_what_is_said_of_a_few_is_not_said_of_most(tmp_path: Path) -> None:
    """Where no trial completed, and no outcome is the rule, the largest share is a number."""
    config = tiny_config(tmp_path)
    outcomes = [Outcome.FAILED] * 4 + [Outcome.PRUNED] * 3 + [Outcome.DIVERGED] * 2
    trials = [made_trial(config, at, one, valid=()) for at, one in enumerate(outcomes)]
    report(made_study(tmp_path, trials), tmp_path / "out")
    _, text = check_page(tmp_path / "out")
    assert "No trial of 9 has completed, so there is no answer. Of these 4 failed:" in text


def test_what_a_resumed_trial_cost_is_all_its_lives(tmp_path: Path) -> None:
    """Training time counts what was trained before an interruption, as the epochs do."""
    config = tiny_config(tmp_path)
    trials = [made_trial(config, 0, seconds=60.0, epochs_seconds=600.0)]
    trials.append(made_trial(config, 1, Outcome.PRUNED, seconds=200.0))
    report(made_study(tmp_path, trials), tmp_path / "out")
    _, text = check_page(tmp_path / "out")
    assert re.search(r"complete *\| *1 *\| *3 *\| *10 min 00 s *\| *75 %", text)


def test_whose_layers_is_said_where_there_was_a_choice(tmp_path: Path) -> None:
    """Of most networks there is none; where there was, it may be another elsewhere."""
    config = tiny_config(tmp_path)
    chosen = [{}, {"layers": "ours"}, {"layers": "torch's"}, {"layers": "torch's"}]
    trials = [
        made_trial(config, at, surroundings={"torch": "2.9", **own})
        for at, own in enumerate(chosen)
    ]
    report(made_study(tmp_path, trials), tmp_path / "out")
    _, text = check_page(tmp_path / "out")
    assert re.search(r"layers *\| *torch's \(2 trials\), ours \(1 trials\)", text)
    assert "Large LSTM layers are those that were measured to be the quicker" in text
    (tmp_path / "none").mkdir()
    report(made_study(tmp_path / "none", trials[:1]), tmp_path / "other")
    _, text = check_page(tmp_path / "other")
    assert "Large LSTM layers" not in text
