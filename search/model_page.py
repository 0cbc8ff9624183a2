"""The page for people in an exported model's folder: what it is, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping

from search.data.cards import ClassifyCard, ForecastCard
from search.model_files import ModelCard

NETWORKS = {
    "trial": "a network",
    "winner": "of the networks of an evaluation's winner, the best of validation",
    "ensemble": "all networks of an evaluation's winner, which answer as one",
}


def page(card: ModelCard) -> str:
    """Returns the content of `README.md`."""
    form = "" if card.source == "trial" else f", {card.source}"
    parts = [
        f"# {card.study}, trial {card.trial}{form}",
        f"For the task {card.data.task}: {NETWORKS[card.source]}.\nIt needs no study and no "
        "database: with rnn-search installed",
        _trusting(_example(card)) if card.factory else _example(card),
        "`model.safetensors` holds the weights, `model.json` all else: how data is read and "
        "standardised,\nthe hyperparameters, versions, figures, and a fingerprint of the data "
        f"({card.fingerprint}). No file\nhere can run code when it is loaded.",
        *([_own(card.factory, card.factory_source)] if card.factory else []),
        *([_onnx(card)] if card.onnx else []),
        *_figures(card),
        "## Hyperparameters\n\n" + _table(("name", "value"), card.hyperparameters.to_dict()),
    ]
    return "\n\n".join(parts) + "\n"


def _trusting(example: str) -> str:
    """Returns an example that lets the user's own network be imported."""
    shown = example.replace("predict DIR", "predict --trust-code DIR")
    return shown.replace('load("DIR")', 'load("DIR", trust_code=True)')


def _own(factory: str, source: str | None) -> str:
    module, _, function = factory.partition(":")
    return f"""## The network is your own

It is built by `{function}` of the Python module `{module}`, which is not in here: put it into this
folder, into the one where you work, or install it. `--trust-code` lets it be imported. The file
that it was trained with had a SHA-256 that begins with {source or "(not known)"}."""


def _table(titles: tuple[str, str], rows: Mapping[str, object]) -> str:
    lines = [f"| {titles[0]} | {titles[1]} |", "|---|---|"]
    for name, value in rows.items():
        shown = f"{value:.6g}" if isinstance(value, float) and titles[0] == "figure" else value
        lines.append(f"| {name} | {shown} |")
    return "\n".join(lines)


def _figures(card: ModelCard) -> list[str]:
    found = []
    if card.figures:
        where = "of the ensemble" if card.joined else f"at epoch {card.epoch}"
        found.append("## Validation\n\n" + _table(("figure", where), card.figures))
    if card.joined:
        seeds = {str(one.seed): f"{one.figures[card.metric]:.6g}" for one in card.members}
        found.append(f"## Its networks\n\n{_table(('seed', f'validation {card.metric}'), seeds)}")
    if card.test is not None:
        found.append(
            f"## Test\n\n{_table(('figure', f'look {card.test.look}'), card.test.figures)}\n\n"
            f"Seen at {card.test.time}; of several looks at a test part only the first is honest."
        )
    return found


def _example(card: ModelCard) -> str:
    data = card.data
    if isinstance(data, ForecastCard):
        columns = [data.series, data.time, *data.features]
        return _shown("new.csv", [name for name in columns if name], "forecasts.csv") + (
            f"\n\nEvery {data.window} rows in a row without a gap give forecasts of the next "
            f"{data.horizon} of\n{_listed(data.targets)}; so do the last rows of the file."
            f"{_interval(card)}"
        )
    if isinstance(data, ClassifyCard):
        if data.series is None:
            return _shown("new.ts", [], "classes.csv") + (
                f"\n\nA case has {len(data.channels)} dimensions; the classes are "
                f"{_listed(data.classes)}."
            )
        columns = [data.series, data.time, *data.channels]
        return _shown("new.csv", [name for name in columns if name], "classes.csv") + (
            f"\n\nThe classes are {_listed(data.classes)}."
        )
    return """```
rnn-search predict DIR text.txt                # nats per character and perplexity
rnn-search predict DIR prompt.txt --length 200 --temperature 0.8 --seed 1
```

```python
from pathlib import Path

import search

model = search.load("DIR")
model.predict(Path("text.txt"))                # or the text itself
model.generate("Once upon", length=200, temperature=0.8, seed=1)
```"""


def _interval(card: ModelCard) -> str:
    if card.band is None:
        return ""
    wider = " They are\nwider where the networks disagree." if card.band.residual else ""
    many = "nine in ten new values"
    if card.band.share < 0.9:
        several = "" if card.band.windows == 1 else "s"
        many = (
            f"about {100 * card.band.share:.0f} % of new values (the validation part has only "
            f"{card.band.windows}\nwindow{several} to tell by)"
        )
    return (
        f" `NAME_low` and `NAME_high`\nenclose {many}, if they are like the "
        f"validation part's.{wider}"
    )


def _shown(file: str, columns: list[str], out: str) -> str:
    has = f"\n`{file}` needs the columns {_listed(columns)}." if columns else ""
    frame = "  # or a pandas frame with its columns" if columns else ""
    return f"""```
rnn-search predict DIR {file} --out {out}
```

```python
import search

model = search.load("DIR")
model.predict("{file}"){frame}
```
{has}"""


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _onnx(card: ModelCard) -> str:
    assert card.onnx is not None
    many = "these networks and how they answer as one" if card.joined else "the same network"
    worst = f"{card.onnx.difference:.1e}"
    return f"""## ONNX

`model.onnx` holds {many}, for programs without
PyTorch: `pip install onnxruntime`. Data goes in as it is, in its own units; `batch` and `time` may
be anything.

{_table(("input", "what it is"), card.onnx.inputs)}

{_table(("output", "what it is"), card.onnx.outputs)}

```python
{_onnx_code(card)}
```

When this was written, onnxruntime's answers differed from PyTorch's by at most {worst}."""


def _onnx_code(card: ModelCard) -> str:
    data = card.data
    start = (
        "import json\nfrom pathlib import Path\n\nimport numpy as np\nimport onnxruntime\n\n"
        'model = onnxruntime.InferenceSession("DIR/model.onnx")\n'
        'card = json.loads(Path("DIR/model.json").read_text(encoding="utf-8"))["data"]\n'
    )
    if isinstance(data, ForecastCard):
        interval = ", low, high" if card.band else ","
        return (
            start
            + f"""# One window; the columns are card["features"].
values = np.zeros((1, {data.window}, {len(data.features)}))
forecast{interval} = model.run(None, {{"values": values}})"""
        )
    if isinstance(data, ClassifyCard):
        return (
            start
            + f"""# Two series, of 30 and 12 steps, filled up to 30; columns are card["channels"].
values, lengths = np.zeros((2, 30, {len(data.channels)})), np.array([30, 12])
probabilities, places = model.run(None, {{"values": values, "lengths": lengths}})
print([card["classes"][place] for place in places])"""
        )
    return start + TEXT_CODE


TEXT_CODE = """vocabulary, text = card["vocabulary"], "Once upon"
codes = [vocabulary.find(one) % (len(vocabulary) + 1) for one in text]  # unknown: the last
inputs = model.get_inputs()[1:]  # the hidden state, which starts at 0
states = [np.zeros((one.shape[0], 1, one.shape[2]), np.float32) for one in inputs]
for _ in range(100):
    fed = {one.name: state for one, state in zip(inputs, states)}
    logs, *states = model.run(None, {"characters": np.array([codes]), **fed})
    codes = [int(logs[0, -1].argmax())]
    text += vocabulary[codes[0]]
print(text)"""
