"""The configuration of a run: one YAML file, strict, every mistake reported at once.

Rules: an unknown key is an error, with a suggestion; durations, times and rates are text with units; nothing that
reaches a shell script holds a control character. Every field says what it means and what happens when it is too low or
too high; `ftslurm config schema` prints the same words. The models are frozen: a configuration never changes after it
was read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ftslurm import checkpoint_section, container_section, placeholders, torchrunline
from ftslurm.checkpoint_section import Checkpoint, State
from ftslurm.command_field import Command
from ftslurm.complaints import CROSS, explain, report, without
from ftslurm.container_section import Container
from ftslurm.errors import ConfigError
from ftslurm.fields import (
    AbsolutePath,
    Count,
    CountOrNone,
    Interface,
    Lines,
    Name,
    NodeRange,
    PortRange,
    Texts,
    TimeLimit,
    Word,
    duration,
    list_to_tuple,
)
from ftslurm.observe_section import Observe, hide_secrets
from ftslurm.passthrough import HIDDEN, SbatchOptions, Variables, hide_assignments, is_secret
from ftslurm.plan_section import Plan
from ftslurm.quantities import format_duration, format_slurm_time
from ftslurm.sections import HealthRule, Hooks, Probes, Progress, Recovery, Section
from ftslurm.srunline import refusals
from ftslurm.yamldoc import MAX_CHARACTERS, Document, Problem, read

Finding = tuple[tuple[str, ...], str]


class Resources(Section):
    """What Slurm is asked for."""

    nodes: NodeRange = Field(description="Nodes: a number, or a range such as 2-4 (Slurm gives what it has)")
    ranks_per_node: Count = Field(1, description="Ranks (tasks) on every node; one for each GPU is usual")
    gpus_per_node: CountOrNone = Field(0, description="GPUs on every node; 0 asks for none")
    cpus_per_rank: Count | None = Field(None, description="CPU cores of a rank; too low starves its data loaders")
    time: TimeLimit = Field(None, description="Time limit, as in 1-00:00:00, 1:30:00, 90m; left out: the partition's")
    partition: Word | None = Field(None, description="Partition; left out: the cluster's default")
    sbatch: SbatchOptions = Field({}, description="Any other option of sbatch by its long name; true is a bare flag")


class Launch(Section):
    """How the ranks are started. Modules, set-up lines and variables belong to the ranks, not to ftslurm."""

    launcher: Literal["srun", "mpirun", "torchrun"] = Field(
        "srun",
        description="What starts the ranks; torchrun: one task a node runs the command, torchrun or accelerate launch,"
        " whose world ftslurm rewrites for every attempt",
    )
    mpi: Word = Field("pmix", description="srun's --mpi; none: it is not passed. Not used by mpirun and torchrun")
    modules: Lines = Field((), description="Environment modules that are loaded for the ranks, in this order")
    setup: Lines = Field((), description="Lines of bash that run before the ranks, in this order")
    env: Variables = Field({}, description="Environment variables of the ranks")
    srun: Texts = Field(
        (), description="Further options of srun, verbatim, for the training's job step only; none that the plan sets"
    )
    container: Container | None = Field(None, description="Runs the ranks in a container; left out: in none")


class Network(Section):
    """Where ranks and ftslurm's own processes talk."""

    interface: Interface = Field(
        "auto",
        description="Network interface of MASTER_ADDR, or a rule for the names that nodes have on it, as in '{host}i';"
        " auto: the one that leads to the other nodes",
    )
    ports: PortRange = Field((20000, 29999), description="Range of TCP ports from which every attempt takes fresh ones")


class Heartbeat(Section):
    """How fast a lost node is noticed."""

    profile: Literal["default", "fast"] = Field(
        "default", description="fast: interval 200ms and suspect_after 1s where they are not given; for quiet networks"
    )
    interval: Annotated[float, *duration(0.05, 60)] = Field(
        0.5, description="Time between two beats of a node; too low costs CPU, too high slows every verdict"
    )
    suspect_after: Annotated[float, *duration(0.2, 600)] = Field(
        3.0, description="Silence after which a node is probed; too low probes for nothing on a busy network"
    )
    fabric: Literal["auto", "mpi", "none"] = Field(
        "auto",
        description="Heartbeats over MPI beside those over TCP, as a second witness; auto and mpi: where mpi4py and"
        " srun can, else the run says so once and goes on without",
    )
    false_suspicions: Annotated[float, *duration(3600, 10 * 365 * 86400)] = Field(
        30 * 86400.0,
        description="At most one node is probed for nothing in this time, where beats come as unevenly as before",
    )
    deadman_after: Annotated[float, *duration(1, 3600)] = Field(
        10.0,
        description="Time after which a node that reaches nobody kills its own ranks; too low loses ranks to a glitch,"
        " too high delays restarts on shared folders",
    )
    takeover_after: Annotated[float, *duration(2, 3600)] = Field(
        6.0,
        description="Silence of the supervisor after which another node takes over; too low takes over for nothing",
    )
    no_quorum_after: Annotated[float, *duration(10, 86400)] = Field(
        300.0,
        description="Time after which a supervisor that reaches neither most nodes nor shared storage requeues the job",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_profile(cls, given: Any) -> Any:  # noqa: ANN401 - whatever the file holds
        fast = isinstance(given, dict) and given.get("profile") == "fast"
        return {"interval": "200ms", "suspect_after": "1s", **given} if fast else given


class Config(Section):
    """A whole configuration."""

    name: Name = Field(description="Name of the run and of its job")
    command: Command = Field(description="The training program and its arguments, one list item each; no shell")
    run_root: AbsolutePath | None = Field(
        None,
        description="Folder on shared storage under which every run has its own; left out: FTSLURM_RUN_ROOT, the site"
        " profile's, ftslurm-runs beside the script, or ~/.ftslurm/runs",
    )
    resources: Resources
    launch: Launch = Launch()
    network: Network = Network()
    heartbeat: Heartbeat = Heartbeat()
    progress: Progress = Progress()
    recovery: Recovery = Recovery()
    checkpoint: Checkpoint = Checkpoint()
    state: State = State()
    probes: Probes = Probes()
    rules: Annotated[tuple[HealthRule, ...], BeforeValidator(list_to_tuple)] = Field(
        (), description="From which value of a metric on a node is how well, and what follows"
    )
    hooks: Hooks = Hooks()
    observe: Observe = Observe()
    plan: Plan = Plan()

    @property
    def world_size(self) -> int:
        """Ranks on a full allocation."""
        return self.resources.nodes[1] * self.resources.ranks_per_node

    @property
    def tasks_per_node(self) -> int:
        """Tasks that Slurm starts on a node: torchrun is one, and starts the node's ranks itself."""
        return 1 if self.launch.launcher == "torchrun" else self.resources.ranks_per_node

    @property
    def cpus_per_task(self) -> int | None:
        """CPU cores of a task of Slurm's."""
        resources = self.resources
        ranks = resources.ranks_per_node // self.tasks_per_node
        return None if resources.cpus_per_rank is None else resources.cpus_per_rank * ranks

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        findings = list(cross_findings(self))
        if findings:
            raise PydanticCustomError(CROSS, "the values do not fit together", {"findings": findings})
        return self

    def resolved(self) -> dict[str, Any]:
        """All values, defaults filled in, ready for JSON; values of secrets are hidden, their names stay."""
        plain: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        launch, sbatch = plain["launch"], plain["resources"]["sbatch"]
        launch["env"] = {name: HIDDEN if is_secret(name) else value for name, value in launch["env"].items()}
        launch["setup"] = [hide_assignments(line) for line in launch["setup"]]
        launch["srun"] = [hide_assignments(option) for option in launch["srun"]]
        if launch["container"]:
            launch["container"]["command"] = [hide_assignments(word) for word in launch["container"]["command"]]
        hide_secrets(plain["observe"])
        for name, value in sbatch.items():
            if isinstance(value, str):
                sbatch[name] = hide_assignments(value)
        return plain


def cross_findings(config: Config) -> list[Finding]:
    """What is wrong between fields that are right one by one: (key, sentence naming the other key)."""
    resources, recovery, beat, saved = config.resources, config.recovery, config.heartbeat, config.checkpoint
    least, time_s, multiple = resources.nodes[0], resources.time, recovery.world_multiple_of
    checks: list[tuple[bool, str, str]] = [
        (recovery.min_nodes > least, "recovery.min_nodes",
         f"{recovery.min_nodes} is more than resources.nodes ({least}): the run could never start"),
        (config.world_size % multiple != 0, "recovery.world_multiple_of",
         f"resources.nodes x resources.ranks_per_node is {config.world_size} ranks, no multiple of {multiple}"),
        (bool(recovery.world_sizes) and config.world_size not in recovery.world_sizes, "recovery.world_sizes",
         f"resources.nodes x resources.ranks_per_node is {config.world_size} ranks, which is not in the list"),
        (beat.suspect_after < 2 * beat.interval, "heartbeat.suspect_after",
         f"must be at least twice heartbeat.interval ({format_duration(beat.interval)})"),
        (beat.deadman_after <= beat.suspect_after, "heartbeat.deadman_after",
         f"must be more than heartbeat.suspect_after ({format_duration(beat.suspect_after)})"),
        (beat.takeover_after < 4 * beat.interval, "heartbeat.takeover_after",
         f"must be at least four times heartbeat.interval ({format_duration(beat.interval)})"),
        (time_s is not None and saved.grace >= time_s, "checkpoint.grace",
         f"must be less than resources.time ({format_slurm_time(time_s or 0)})"),
        (resources.gpus_per_node > 0 and "gres" in resources.sbatch and "gpu" in str(resources.sbatch["gres"]),
         "resources.sbatch.gres", "asks for GPUs a second time, beside resources.gpus_per_node"),
    ]  # fmt: skip
    found = [(key, sentence) for wrong, key, sentence in checks if wrong]
    found += [("launch.srun", sentence) for sentence in refusals(config.launch.srun)]
    found += [("launch.launcher", sentence) for sentence in _launcher_findings(config)]
    found += checkpoint_section.findings(saved, resources.nodes[1])
    found += container_section.findings(config.launch.container, config.launch.srun, config.launch.launcher)
    return [(tuple(key.split(".")), sentence) for key, sentence in found]


def _launcher_findings(config: Config) -> list[str]:
    """A command that starts ranks itself must be known as one, and no other may be taken for it."""
    launch = config.launch
    if launch.launcher != "torchrun":
        line = None if "launcher" in launch.model_fields_set else torchrunline.read(config.command)
        asks = "say torchrun, and ftslurm tells it the world of every attempt, or srun: the command stays as it is"
        return [] if line is None else [f"command calls {line.kind}: {asks}"]
    if torchrunline.read(config.command, anywhere=True) or placeholders.used(config.command):
        return []
    names = ", ".join(f"{{{name}}}" for name in placeholders.NAMES)
    return [f"command calls neither torchrun nor accelerate launch, and has none of {names}"]


def load(path: Path) -> Config:
    """Read and check a file. Raises ConfigError with all that is wrong, each with line and column."""
    return parse(text_of(path), str(path))


def parse(text: str, file: str, told: Mapping[str, Any] | None = None) -> Config:
    """Check the text of a configuration; `file` is how messages call it, `told` is laid over what it says."""
    document = read(text)
    if told is not None and isinstance(document.value, dict | None):
        document.value = laid_over(document.value or {}, told)
    if document.value is None and not document.problems:
        raise ConfigError(f"{file} is empty", hint="a configuration needs at least name, command and resources.nodes")
    problems = list(document.problems)
    if document.value is not None:
        config, more = _validate(document)
        problems += [problem for problem in more if problem.path not in document.lost]
        if config is not None and not problems:
            return config
    raise ConfigError(report(problems, file), hint="`ftslurm config schema` describes every key")


def laid_over(base: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the keys of `told` in its sections; what is no section there stays, and is a mistake later."""
    found = dict(base)
    for name, value in told.items():
        if name not in found or not isinstance(value, Mapping):
            found[name] = value
        elif isinstance(found[name], dict):
            found[name] = laid_over(found[name], value)
    return found


def from_resolved(data: dict[str, Any]) -> Config:
    """A configuration from what `resolved` returned, for its settings.

    Whatever held a hidden value (variables, set-up lines, options) is left out, never set to stars: what starts the
    ranks must be read from the YAML file. Raises ConfigError when the data is not of that form.
    """
    try:
        return Config.model_validate(_without_hidden(data))
    except ValidationError as error:
        raise ConfigError(report(explain(error, Document.of(data), Config), "resolved configuration")) from error


def _without_hidden(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return {key: _without_hidden(item) for key, item in value.items() if not _is_hidden(item)}
    if isinstance(value, list):
        return [_without_hidden(item) for item in value if not _is_hidden(item)]
    return value


def _is_hidden(value: object) -> bool:
    return isinstance(value, str) and (value == HIDDEN or f"={HIDDEN}" in value)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a configuration, for editors; defaults are written as a user would write them."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema(by_alias=True)}
    for name, info in Config.model_fields.items():
        if isinstance(info.default, Section):
            schema["properties"][name].pop("default", None)
    for kind in _sections(Config):
        written = kind.model_construct().model_dump(mode="json", by_alias=True)
        for key, prop in schema["$defs"][kind.__name__]["properties"].items():
            if "default" in prop:
                prop["default"] = written[key]
    return schema


def _sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Every section inside a model, however deep."""
    for info in model.model_fields.values():
        for kind in (info.annotation, *get_args(info.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield kind
                yield from _sections(kind)


def text_of(path: Path) -> str:
    """The text of a file that a user has written. Raises ConfigError: it cannot be read, is too large, or no text."""
    try:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder", hint="give the YAML file itself")
        with path.open("rb") as file:
            raw = file.read(4 * MAX_CHARACTERS + 1)
        if len(raw) > 4 * MAX_CHARACTERS:
            raise ConfigError(f"{path} is too large for a configuration (at most {MAX_CHARACTERS} characters)")
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}:1: not UTF-8 text (byte 0x{error.object[error.start]:02x})") from error


def _validate(document: Document) -> tuple[Config | None, list[Problem]]:
    """The configuration, or all problems: when single fields are wrong, the rest is still checked across fields."""
    try:
        return Config.model_validate(document.value), []
    except ValidationError as error:
        problems = explain(error, document, Config)
    if not isinstance(document.value, dict):
        return None, problems
    wrong = {problem.path for problem in problems}
    stubs = {"name": "x", "command": ["x"], "resources": {"nodes": 1}}
    rest = without(document.value, wrong)
    rest = {**stubs, **rest, "resources": {"nodes": 1, **rest.get("resources", {})}}
    return None, problems + _across(rest, document, wrong)


def _across(rest: dict[str, Any], document: Document, wrong: set[Any]) -> list[Problem]:
    """Problems between fields of `rest` (what remains without the wrong fields) that do not rest on a wrong one."""
    try:
        Config.model_validate(rest)
    except ValidationError as error:
        names = "|".join(re.escape(".".join(map(str, path))) for path in wrong)
        rests_on_wrong = re.compile(rf"(?<![\w.])(?:{names})(?!\w)")
        # A section that has lost a wrong key is not judged as a whole.
        without_part = {path[:depth] for path in wrong for depth in range(1, len(path) + 1)}
        return [
            problem
            for problem in explain(error, document, Config)
            if problem.path not in without_part and not rests_on_wrong.search(problem.message)
        ]
    return []
