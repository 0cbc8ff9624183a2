"""One run from what was asked for to its end: read, check, create or resume, train, tell."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console

from search.attachments import Attachments
from search.changes import (
    check_unchanged,
    fit_again,
    note_source,
    require_data,
    say_more,
    with_all_trials,
)
from search.config import StudyConfig, load_config, make_config
from search.coordinator import Coordinator, Ending
from search.crews import ClusterRequest, Crew, crew_here, open_crew
from search.data import load_splits, settle
from search.data.splits import Splits
from search.database import Database
from search.display import Progress, say
from search.errors import ConfigError, DataError, StudyError, nearest
from search.factories import Factory, trust_factory
from search.machine import ALL, choose_device
from search.network_checks import check_network
from search.processes import catch_signals
from search.recurrent import compile_first
from search.space import fit_to_data, starting_points
from search.stopping import PRUNERS
from search.storage import create_study, is_made, list_studies, open_study
from search.stored_study import MARK, StoredStudy
from search.surroundings import surroundings
from search.worker import TrialRules


@dataclass(frozen=True)
class Request:
    """What a run was asked for on the command line; None: what the study says.

    Attributes:
        study: A study file, the name of one in ``studies/``, or of a study in the storage.
        storage: URL of the database.
        trials: How many trials the study is to have in all.
        timeout: Seconds that this run may take; infinite: no limit.
        workers: How many trials at once.
        seed: The study's seed.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``all``: a GPU and the cores.
        fork: Name of a new study that takes the old one's trials along.
        stagnation: Trials that may finish in a row with none better; infinite: any number.
        target: A value that is good enough; NaN: none.
        trust_code: Whether the study's ``[model] factory`` may be imported.
        cluster: ``ray``: train on a Ray cluster; None: on this machine.
        address: ``HOST:PORT`` of the cluster; None: one on this machine, for this run.
        gpus_per_trial: The part of a GPU that each trial takes on the cluster.
    """

    study: str
    storage: str
    trials: int | None = None
    timeout: float | None = None
    workers: int | None = None
    seed: int | None = None
    device: str = "auto"
    fork: str | None = None
    stagnation: float | None = None
    target: float | None = None
    trust_code: bool = False
    cluster: str | None = None
    address: str | None = None
    gpus_per_trial: float | None = None

    @property
    def of_cluster(self) -> ClusterRequest | None:
        """What was asked for of a cluster; None: nothing.

        Raises:
            ConfigError: It makes no sense.
        """
        if self.cluster is not None:
            wanted = (self.address, self.gpus_per_trial, self.workers, self.device)
            return ClusterRequest(*wanted)
        for option, value in (("address", self.address), ("gpus-per-trial", self.gpus_per_trial)):
            if value is not None:
                raise ConfigError(f"--{option} {value} goes with --cluster ray only")
        return None

    @property
    def budget(self) -> dict[str, object]:
        """The keys of ``[budget]`` that were given, `timeout` excepted, which is of one run."""
        budget: dict[str, object] = {}
        if self.trials is not None:
            budget["trials"] = self.trials
        if self.stagnation is not None:
            none = math.isinf(self.stagnation)
            budget["stagnation"] = None if none else int(self.stagnation)
        if self.target is not None:
            budget["target"] = None if math.isnan(self.target) else self.target
        return budget


@dataclass(frozen=True)
class Plan:
    """A run that makes sense: everything is read and checked, nothing is written yet.

    Attributes:
        config: The configuration, fitted to the data.
        splits: The data.
        notes: What a person should know before it starts.
        crew: The trainers.
        factory: Builds the networks, if they are the user's own.
    """

    config: StudyConfig
    splits: Splits
    notes: list[str]
    crew: Crew
    factory: Factory | None = None

    @property
    def device(self) -> str:
        """What trials train on, as torch writes it; not what those beside them do."""
        return self.crew.device


def make_plan(
    request: Request,
    *,
    from_storage: bool = False,
    stored: StudyConfig | None = None,
    training: bool = True,
) -> Plan:
    """Reads configuration and data and checks that they make sense together.

    Args:
        request: What was asked for.
        from_storage: Take the configuration from the storage even if there is a file.
        stored: The configuration, if it has been read from the storage already.
        training: Refuse a ``[model] factory`` that is not trusted; else do without it.

    Raises:
        RequestError: They do not; nothing has been created.
    """
    away = request.of_cluster is not None
    device = choose_device("cpu" if away else request.device)
    file = None if from_storage or stored else find_study_file(request.study)
    if file:
        config = load_config(file)
    else:
        config = require_data(stored or _stored_config(request, from_storage))
    origin, trusted = str(file or config.name), request.trust_code
    own = config.model if training or trusted else None
    factory = trust_factory(own, origin, trusted=trusted)
    try:
        asked = {"data": settle(config.data), **_changes(request, config)}
        config = config.model_copy(update=asked)
        splits = load_splits(config.data)
    except (ConfigError, DataError) as error:
        raise type(error)(f"{origin}: {'[data] ' * isinstance(error, DataError)}{error}") from None
    _refuse_percent(config, None if stored else origin)
    config, remarks = (fit_to_data if file else fit_again)(config, splits.train.size)
    kind = {"own_network": config.model is not None, "beside": request.device == ALL}
    crew = crew_here(None if away else request.workers, device, splits, **kind)
    notes = [*splits.notes, *remarks, *_try_network(config, splits, device, factory)]
    return Plan(config, splits, notes, crew, factory)


def _changes(request: Request, config: StudyConfig) -> dict[str, object]:
    """Returns what options change of a configuration."""
    seed = {} if request.seed is None else {"seed": request.seed}
    return {"budget": config.budget.model_copy(update=request.budget), **seed}


def _refuse_percent(config: StudyConfig, origin: str | None) -> None:
    """Refuses a target that is never reached: figures that are to be large are shares of 1.

    A study that was made with one before (``origin`` is None) can be evaluated and replayed.
    """
    target = config.budget.target
    if origin and target is not None and target > 1 and config.direction == "maximize":
        raise ConfigError(
            f"{origin}: [budget] target: {config.metric} is at most 1; for {target:g} % write "
            f"{target / 100:g}, there or as --target"
        )


def _try_network(
    config: StudyConfig, splits: Splits, device: str, factory: Factory | None
) -> list[str]:
    """Tries the user's own network, if there is one, and returns what to know of it."""
    if factory is not None:
        return check_network(factory, config.space, splits, device)
    if config.model is None:
        return []
    return [f"{config.model.factory} is neither imported nor tried without --trust-code"]


def run_study(request: Request, plan: Plan, console: Console) -> tuple[StoredStudy, Ending]:
    """Creates or resumes the study and trains until it has its trials.

    Returns:
        The study and why the run ended.

    Raises:
        RequestError: The study in the storage is not the one asked for, or no cluster answers.
        RunError: Storage, disk or trainers failed; what was finished is safe.
    """
    wanted, here = request.of_cluster, nullcontext(plan.crew)
    with here if wanted is None or _is_over(request, plan) else open_crew(wanted) as crew:
        return _run_study(request, replace(plan, crew=crew), console)


def _is_over(request: Request, plan: Plan) -> bool:
    """Says whether nothing of the study is left to train, so that no cluster is needed for it."""
    try:
        stored = open_study(Database(request.storage, create=False), plan.config.name)
    except StudyError:
        return False
    over = [trial.state.is_finished() for trial in stored.trials()]
    return request.fork is None and all(over) and len(over) >= plan.config.budget.trials


def _run_study(request: Request, plan: Plan, console: Console) -> tuple[StoredStudy, Ending]:
    database = Database(request.storage, create=request.fork is None)
    database.require_writable()
    stored = _open_or_create(database, request, plan)
    changed = note_source(stored, plan.factory)
    total = stored.config.budget.trials
    more = say_more(stored, plan.config.budget.trials)
    plan = replace(plan, notes=[*plan.notes, *changed, *more])
    left = total - sum(trial.state.is_finished() for trial in stored.trials())
    crew = plan.crew.at_most(left)
    given = plan.config.budget.timeout if request.timeout is None else request.timeout
    timeout = None if given == float("inf") else given
    _greet(console, stored, plan, total, crew)
    if left > 0 and crew.on_cores and plan.factory is None:
        compile_first(lambda line: say(console, line))
    stopping = stored.config.stopping
    pruning = PRUNERS.get(stopping.pruner), stopping.warmup_epochs
    rules = TrialRules(stored.goal, stopping.patience, stopping.divergence, *pruning)
    # Leaving the block ends the trainers, whatever happens: they heed no signal.
    with (
        catch_signals() as signals,
        crew.start(plan.splits, rules, plan.factory) as trainers,
        Progress(console, stored, total, crew.size, timeout) as progress,
    ):
        ending = Coordinator(
            stored,
            trainers,
            progress,
            total,
            timeout,
            lambda: signals.count > 0,
            surroundings("cpu" if crew.place else crew.device, plan.factory),
            Attachments(stored, progress.say),
            (plan.splits.constant_valid_loss, plan.splits.constant_loss),
        ).run()
    return stored, ending


def describe_plan(plan: Plan) -> dict[str, Any]:
    """Returns what would run, for ``check``: the configuration and lines about all else."""
    baselines = [
        f"{name}: " + ", ".join(f"{key} {value:.5g}" for key, value in figures.items())
        for name, figures in plan.splits.baselines("valid").items()
    ]
    first = [
        ", ".join(f"{key} {value}" for key, value in point.items())
        for point in starting_points(plan.config.space)
    ]
    return {
        "config": plan.config.resolved(),
        "data": plan.splits.describe(),
        "notes": plan.notes or ["none"],
        "baselines": baselines,
        "first trials": first,
        "run": [f"{plan.config.budget.trials} trials, {plan.crew}"],
        "fingerprint": plan.splits.fingerprint,
    }


def find_study_file(study: str) -> Path | None:
    """Returns the study file that ``study`` means: a path, or a name in ``studies/``.

    The studies of the current folder come before those that are shipped.

    Raises:
        ConfigError: It is written like a file, and there is none.
    """
    if study.endswith(".toml") or "/" in study:
        if not _is_there(Path(study)):
            raise ConfigError(f"{study} does not exist; give a study file, or the name of one")
        return Path(study)
    for folder in (Path("studies"), *shipped_folders()):
        file = folder / f"{study}.toml"
        if _is_there(file):
            return file
    return None


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # The name is too long for a file.
        return False


def shipped_folders() -> list[Path]:
    """Returns where the shipped studies are: beside the package in a checkout, or inside it."""
    checkout = Path(__file__).parent.parent / "studies"
    inside = Path(str(resources.files("search"))) / "studies"
    return [folder for folder in (checkout, inside) if folder.is_dir()]


def _stored_config(request: Request, from_storage: bool) -> StudyConfig:
    try:
        return open_study(Database(request.storage, create=False), request.study).config
    except StudyError as error:
        if from_storage:
            raise
        shipped = {file.stem for folder in shipped_folders() for file in folder.glob("*.toml")}
        shipped |= {file.stem for file in Path("studies").glob("*.toml")}
        raise StudyError(
            f"'{request.study}' is neither a study file nor a study in the storage ({error})"
            f"{nearest(request.study, shipped)}"
        ) from None


def _open_or_create(database: Database, request: Request, plan: Plan) -> StoredStudy:
    if request.fork is not None:
        return _fork(database, request.fork, plan)
    ours = {study.study_name for study in list_studies(database) if MARK in study.user_attrs}
    if plan.config.name in ours:
        stored = open_study(database, plan.config.name)
    else:
        stored = create_study(database, plan.config, _attributes(plan))
    # Also of what was created just now: another run may have been quicker, with another file.
    check_unchanged(stored, plan.config, plan.splits.fingerprint)
    return with_all_trials(stored, plan.config)


def _fork(database: Database, name: str, plan: Plan) -> StoredStudy:
    if name in {study.study_name for study in list_studies(database) if is_made(study)}:
        raise StudyError(f"--fork {name}: there is a study of this name already")
    old = open_study(database, plan.config.name)
    config = make_config({**plan.config.resolved(), "name": name}, "--fork")
    for what, before, now in (
        ("data", old.attributes["data"], plan.splits.fingerprint),
        ("metric", old.config.metric, config.metric),
        ("factories", *(one.model and one.model.factory for one in (old.config, config))),
    ):
        if before != now:
            raise StudyError(
                f"--fork {name}: the {what} differ ({before} → {now}), so no trial of "
                f"'{old.config.name}' fits; give the file another name instead"
            )
    attributes = _attributes(plan)
    if "factory" in old.attributes:  # Of the trials taken along: `note_source` says what is new.
        attributes["factory"] = old.attributes["factory"]
    return with_all_trials(create_study(database, config, attributes, fork_of=old), config)


def _attributes(plan: Plan) -> dict[str, object]:
    code = {} if plan.factory is None else {"factory": plan.factory.source}
    return {
        **code,
        "data": plan.splits.fingerprint,
        "baselines": plan.splits.baselines("valid"),
        "constant_loss": plan.splits.constant_valid_loss,
        "notes": plan.notes,
        "described": plan.splits.describe(),
        "card": plan.splits.card(),
    }


def _greet(console: Console, stored: StoredStudy, plan: Plan, total: int, crew: Crew) -> None:
    trials = stored.trials()
    finished = sum(trial.state.is_finished() for trial in trials)
    verb = "resumed" if trials else "new"
    fork = stored.attributes.get("fork")
    if fork is not None and len(trials) == fork["taken"]:
        verb = (
            f"new, with {fork['taken']} of the {fork['of']} trials of '{fork['study']}'; the "
            "others do not fit its space, failed, or are unfinished"
        )
    lines = [
        f"Study {stored.config.name} ({verb}): {finished} of {total} trials done, {crew}",
        f"Storage {stored.database}",
        *(f"note: {note}" for note in plan.notes),
    ]
    for line in lines:
        say(console, line)
