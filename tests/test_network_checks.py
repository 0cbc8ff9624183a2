"""What a network of the user's own must do, and the one line that says what it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from networks import CPU, LOSS, hyper, series, sine, text, unjudged
from own import HEAD, READER, SPEAKER, clean_imports
from refusing import Refuse, Said, cases, csv, forecast

from search.config import OwnModel
from search.data.splits import Splits
from search.dimensions import HYPERPARAMETERS, Choices, Dimension, Fixed, Range
from search.ensembles import Networks
from search.errors import FactoryError, NetworkError
from search.factories import Factory, trust_factory
from search.network_checks import check_network
from search.prediction import _Reader
from search.training import Run

pytestmark = pytest.mark.usefixtures("clean_imports")
__all__ = ["clean_imports"]
DEFAULT: dict[str, Dimension] = {name: known.default for name, known in HYPERPARAMETERS.items()}
LAST = "self.head(inputs[:, -1])"


def layer(answer: str = LAST, head: str = "nn.Linear(input_size, output_size)") -> str:
    """Returns a class whose only layer is ``head``, and which answers a window."""
    return f"""
class Net(nn.Module):
    def __init__(self, params, input_size, output_size, per_step):
        super().__init__()
        self.head = {head}

    def forward(self, inputs):
        return {answer}
"""


def recurrent(answer: str, options: str = "batch_first=True") -> str:
    """Returns a class with a GRU, which answers a series by the GRU's outputs."""
    return f"""
class Net(nn.Module):
    def __init__(self, params, input_size, output_size, per_step):
        super().__init__()
        self.layers = nn.GRU(input_size, 8, {options})
        self.head = nn.Linear(8, output_size)

    def forward(self, inputs, lengths=None):
        hidden = self.layers(inputs)[0]
        return self.head({answer})
"""


def reader(layers: str, answer: str) -> str:
    """Returns a class that embeds characters, and answers each by what ``layers`` make of it."""
    return f"""
class Net(nn.Module):
    def __init__(self, params, input_size, output_size, per_step):
        super().__init__()
        self.embedding = nn.Embedding(input_size, 8)
        self.layers = {layers}
        self.head = nn.Linear(8, output_size)

    def forward(self, inputs, state=None):
        steps = self.embedding(inputs)
        return {answer}
"""


def keeping(value: str) -> str:
    """Returns a class that keeps a tensor beside its only layer."""
    made = "        self.register_buffer('kept', " + value + ")\n"
    return layer().replace("\n    def forward", f"{made}\n    def forward")


CODE: list[tuple[str, str, Said]] = [
    (
        "raises_at_import",
        "raise KeyError('oh')",
        ("importing it raised KeyError: 'oh' (", "line 4)"),
    ),
    ("exits_at_import", "raise SystemExit(3)", "importing it raised SystemExit: 3 ("),
    ("no_syntax", "def Net(:", "importing it raised SyntaxError"),
    (
        "imports_nothing",
        "import no_such",
        "importing it raised ModuleNotFoundError: No module named",
    ),
    ("misspelt", "def net(*all): pass", "has no 'Net' (did you mean 'net'?)"),
    ("no_function", "Net = 3", "is a int, not a function"),
    ("takes_nothing", "def Net(): pass", ("building the network raised TypeError", "4 were given")),
    ("raises", "def Net(*all):\n    raise LookupError('no')", "raised LookupError: no ("),
    ("asks_more", "def Net(params, *_):\n    params.extra['a']", "[space] has no entry 'a'"),
    ("returns_3", "def Net(*all): return 3", "returned a int, not a torch.nn.Module"),
]
SIZES = "from itertools import count\nSIZES = count(2)\n"
LAYERS: list[tuple[str, str, Said]] = [
    (
        "changes_inputs",
        layer().replace("return self", "inputs *= 0.5\n        return self"),
        "forward changes its inputs in place: let it work on a copy",
    ),
    ("nothing_to_train", layer("inputs[:, -1]", "None"), "it has no parameters to train"),
    ("lazy", layer(head="nn.LazyLinear(output_size)"), "it has lazy parameters"),
    ("no_gradient", layer(f"{LAST}.detach()"), "no parameter gets a gradient"),
    ("not_finite", layer(f"{LAST} / 0"), "is not finite"),
    ("no_tensor", layer("3"), "with int; it must return outputs of shape (4, 1)"),
    ("every_step", layer("self.head(inputs)"), "(4, 8, 1) with (4, 8, 1); it must return outputs"),
    ("three_answers", layer(f"({LAST}, 1, 2)"), "with tuple; it must return outputs"),
    (
        "raises_later",
        layer("inputs[:, 99]"),
        ("running the network raised IndexError", ", line 11)"),
    ),
    ("mixes_examples", layer(f"{LAST} + inputs.mean()"), "depends on the others in its batch"),
    ("always_drops", layer(f"nn.functional.dropout({LAST})"), "the same input different answers"),
    # Seeded: two random numbers might be too close for their networks to differ.
    (
        "other_random",
        f"import random\nrandom.seed(0)\n{layer(f'{LAST} + random.random()')}",
        "number from torch",
    ),
    (
        "other_sizes",
        SIZES
        + layer(head="nn.Sequential(nn.Linear(input_size, (n := next(SIZES))), nn.Linear(n, 1))"),
        "number from torch",
    ),
    (
        "other_layers",
        SIZES
        + layer(head="nn.Sequential(*[nn.Linear(input_size, 1) for _ in range(next(SIZES))])"),
        "number from torch",
    ),
    (
        "own_state",
        f"{layer()}\n    def get_extra_state(self): return 1",
        "in its state_dict() is no",
    ),
    (
        "too_precise",
        keeping("torch.zeros(2, dtype=torch.complex128)"),
        "'kept' in its state_dict() cannot be kept: safetensors does not hold torch.complex128",
    ),
    ("sparse", keeping("torch.eye(2).to_sparse()"), ("'kept' in its", "torch.sparse_coo")),
]


def refuse_own(refuse: Refuse, name: str, code: str, says: Said) -> None:
    """Expects the factory ``Net`` of a forecast to be refused."""
    top = f'[model]\nfactory = "own_{name}:Net"\n'
    files = {"d.csv": csv(), f"own_{name}.py": HEAD + code, "s.toml": forecast(top=top)}
    said = (says,) if isinstance(says, str) else says
    refuse(files, (f"own_{name}:Net", *said), "run", "s.toml", "--trust-code")


@pytest.mark.parametrize(("name", "code", "says"), cases((one[0], *one) for one in CODE))
def test_code_that_gives_no_network(refuse: Refuse, name: str, code: str, says: Said) -> None:
    """One line has the factory, the user's own error and where it was raised; nothing is made."""
    refuse_own(refuse, name, code, says)


@pytest.mark.parametrize(("name", "code", "says"), cases((one[0], *one) for one in LAYERS))
def test_a_network_that_cannot_be_used(refuse: Refuse, name: str, code: str, says: Said) -> None:
    """Mistakes in what it answers, trains and keeps are each named in one line; nothing is made."""
    refuse_own(refuse, name, code, says)


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("nowhere:build", "there is no module 'nowhere' in"),
        ("own_shadow.deep:build", "there is no module 'own_shadow' in"),
        ("random:build", "Python has another module 'random'"),
        ("mynet.py:build", "leave out '.py'"),
        ("mynet", 'must be "module:function"'),
        ("os:system -x", 'must be "module:function"'),
    ],
)
def test_names_that_lead_nowhere(refuse: Refuse, factory: str, says: str) -> None:
    """A module that is not there, is another's, or is no name, is refused with what to correct."""
    files = {"d.csv": csv(), "random.py": "def build(*all): pass"}
    top = f'[model]\nfactory = "{factory}"\n'
    refuse({**files, "s.toml": forecast(top=top)}, says, "run", "s.toml", "--trust-code")


def factory_of(folder: Path, name: str, code: str) -> Factory:
    """Writes a module and returns its factory ``Net``."""
    (folder / f"own_{name}.py").write_text(HEAD + code)
    own = OwnModel(factory=f"own_{name}:Net", folder=folder)
    factory = trust_factory(own, "a test", trusted=True)
    assert factory is not None
    return factory


STUMBLES = """
class Stumble(torch.autograd.Function):
    @staticmethod
    def forward(context, outputs):
        return outputs

    @staticmethod
    def backward(context, gradient):
        raise IndexError("list index out of range")

""" + layer("Stumble.apply(self.head(inputs[:, -1]))")


def test_a_gradient_that_raises_fails_its_trial(tmp_path: Path) -> None:
    """Whatever a gradient of the user's own raises in training is a fault of their network."""
    run = Run(hyper(), sine(), 0, LOSS, CPU, factory_of(tmp_path, "stumbles", STUMBLES))
    said = "own_stumbles:Net: the loss of its outputs, or the gradient, raised IndexError: list"
    with pytest.raises(NetworkError, match=said):
        run.advance(unjudged)


HEEDS = "hidden[torch.arange(len(inputs)), lengths - 1]"


@pytest.mark.parametrize(
    ("name", "answer", "options"),
    [
        ("last_column", "hidden[:, -1]", "batch_first=True"),
        ("mean_of_all", "hidden.mean(1)", "batch_first=True"),
        ("backwards", "self.layers(inputs.flip(1))[0][:, -1]", "batch_first=True"),
    ],
)
def test_padding_that_leaks(tmp_path: Path, name: str, answer: str, options: str) -> None:
    """A network whose answer changes with what comes after a series' end is refused."""
    factory = factory_of(tmp_path, name, recurrent(answer, options))
    with pytest.raises(FactoryError, match=f"own_{name}:Net cannot be used: padding leaks"):
        check_network(factory, DEFAULT, series(), "cpu")


MEAN = "(hidden * (torch.arange(hidden.shape[1]) < lengths[:, None])[..., None]).sum(1)"


def test_an_amount_of_padding_that_counts(tmp_path: Path) -> None:
    """A mean over all steps of a batch, if only the real ones are added up, is refused."""
    factory = factory_of(tmp_path, "shrinks", recurrent(f"{MEAN} / inputs.shape[1]"))
    with pytest.raises(FactoryError, match="depends on how far it is padded"):
        check_network(factory, DEFAULT, series(), "cpu")


def test_a_layer_without_batch_first(tmp_path: Path) -> None:
    """A GRU that takes the batch for time is found by what examples make of each other."""
    factory = factory_of(tmp_path, "time_first", recurrent(HEEDS, "batch_first=False"))
    with pytest.raises(FactoryError, match=r"depends on the others .* batch_first=True\?"):
        check_network(factory, DEFAULT, series(), "cpu")


@pytest.mark.parametrize(
    ("name", "layers", "answer"),
    [
        ("sees_the_next", "nn.Conv1d(8, 8, 3, padding=1)", "self.head(self.layers(steps.mT).mT)"),
        ("sees_all", "nn.Linear(8, 8)", "self.head(steps + steps.mean(1, keepdim=True))"),
    ],
)
def test_a_look_at_what_is_to_be_predicted(
    tmp_path: Path, name: str, layers: str, answer: str
) -> None:
    """A network of characters whose answers change with later ones is refused."""
    factory = factory_of(tmp_path, name, reader(layers, answer))
    with pytest.raises(FactoryError, match="depends on later characters"):
        check_network(factory, DEFAULT, text(), "cpu")


def test_a_state_that_cannot_go_on(tmp_path: Path) -> None:
    """A state of the wrong shape is found on the second chunk of a text."""
    answer = "self.head(steps if state is None else steps + state), steps[:, :2]"
    factory = factory_of(tmp_path, "bad_state", reader("nn.Linear(8, 8)", answer))
    with pytest.raises(FactoryError, match="running the network raised RuntimeError"):
        check_network(factory, DEFAULT, text(), "cpu")


def test_a_state_that_needs_a_whole_chunk(tmp_path: Path) -> None:
    """A state that only a chunk of the same length can take up cannot go on step by step."""
    answer = "self.head(steps if state is None else steps + state), steps"
    factory = factory_of(tmp_path, "long_state", reader("nn.Linear(8, 8)", answer))
    with pytest.raises(FactoryError, match="it must return outputs"):
        check_network(factory, DEFAULT, text(), "cpu")


def test_weights_that_begin_at_zero_hide_nothing(tmp_path: Path) -> None:
    """A leak is found behind last weights that are 0 at first."""
    code = recurrent("hidden[:, -1]").replace(
        "    def forward", "        nn.init.zeros_(self.head.weight)\n\n    def forward"
    )
    with pytest.raises(FactoryError, match="padding leaks"):
        check_network(factory_of(tmp_path, "zero_head", code), DEFAULT, series(), "cpu")


GOOD = [
    ("good_layer", layer(), sine),
    ("good_dropout", layer(f"nn.functional.dropout({LAST}, 0.5, self.training)"), sine),
    ("good_gru", recurrent(HEEDS), series),
    ("good_mean", recurrent(f"{MEAN} / lengths[:, None]"), series),
    (
        "good_sequential",
        "def Net(p, i, o, s): return nn.Sequential(nn.Flatten(), nn.Linear(8 * i, o))",
        sine,
    ),
    ("good_stateless", reader("nn.Linear(8, 8)", "self.head(self.layers(steps))"), text),
    ("good_reader", READER.removeprefix(HEAD).replace("Reader", "Net"), text),
]


@pytest.mark.parametrize(("name", "code", "splits"), cases((one[0], *one) for one in GOOD))
def test_networks_that_can_be_used(
    tmp_path: Path, name: str, code: str, splits: Callable[[], Splits]
) -> None:
    """Windows, series that heed their lengths, and texts with and without a state pass."""
    before = torch.get_rng_state()
    notes = check_network(factory_of(tmp_path, name, code), DEFAULT, splits(), "cpu")
    assert len(notes) == 1
    assert "did not read hidden_layers" in notes[0]
    assert torch.equal(torch.get_rng_state(), before)


FORGETS = reader("nn.GRU(8, 8, batch_first=True)", "self.answer(*self.layers(steps))") + (
    "\n    def answer(self, hidden, state):\n        return self.head(hidden), state\n"
)


def test_a_state_that_does_not_come_back(tmp_path: Path) -> None:
    """If forward does not take it, that is noted, and a text goes on from its characters."""
    factory = factory_of(tmp_path, "forgets", FORGETS.replace(", state=None", ""))
    note, _ = check_network(factory, DEFAULT, text(), "cpu")
    assert "forward does not take state" in note
    sizes = text().input_size, text().output_size
    network = factory.build(hyper(), *sizes, per_step=True).eval()
    reading = _Reader(Networks("language", (network,), joined=False), 8)
    codes = torch.arange(6)
    with torch.no_grad():
        *_, last = (reading.read(code) for code in codes.split(1))
        assert torch.equal(last, network(codes[None])[0][0, -1].double())


def test_a_long_text_is_read_as_it_was_trained(tmp_path: Path) -> None:
    """Without a state, what goes on is of the last characters, no more than in training."""
    short = "assert inputs.shape[1] <= 8\n        return self.answer"
    code = FORGETS.replace(", state=None", "").replace("return self.answer", short, 1)
    sizes = text().input_size, text().output_size
    network = factory_of(tmp_path, "short", code).build(hyper(), *sizes, per_step=True).eval()
    reading = _Reader(Networks("language", (network,), joined=False), 8)
    codes = torch.arange(13) % sizes[1]
    with torch.no_grad():
        reading.read(codes[:12])
        last = reading.read(codes[12:])
        assert torch.equal(last, network(codes[None, -8:])[0][0, -1].double())


def test_hyperparameters_may_be_changed_in_a_copy(tmp_path: Path) -> None:
    """A factory may make other hyperparameters of those that it is given."""
    code = (
        "from dataclasses import replace\n\n\ndef Net(params, inputs, outputs, _):\n"
        "    size = replace(params, hidden_units=params.hidden_units // 2).hidden_units\n"
        "    layers = nn.Linear(8 * inputs, size), nn.Linear(size, outputs)\n"
        "    return nn.Sequential(nn.Flatten(), *layers)\n"
    )
    assert check_network(factory_of(tmp_path, "replaces", code), DEFAULT, sine(), "cpu") == []


def test_what_is_searched_in_vain_is_named(tmp_path: Path) -> None:
    """The notes name what was not read, of the built-in entries and of the user's own."""
    code = SPEAKER.removeprefix(HEAD).replace("def build", "def Net")
    factory = factory_of(tmp_path, "unread", code)
    own = {"attention": Choices((True, False)), "kernel_size": Range(2, 5), "spare": Range(1, 2)}
    fixed = {"hidden_layers": Fixed(1)}
    cell, spare = check_network(factory, {**DEFAULT, **fixed, **own}, series(), "cpu")
    assert "did not read cell, searched all the same" in cell
    assert cell.endswith('fix them in [space]: cell = "lstm"')
    assert "own_unread:Net did not read spare of [space]" in spare
