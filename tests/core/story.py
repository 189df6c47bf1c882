"""Scenarios: what happens, one event a line, and what the core answers. tests/scenarios/README.md explains the words."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, get_type_hints

from ftslurm.core.about import About, SaveKind
from ftslurm.core.events import (
    AgentLost,
    AgentUp,
    AllocationGranted,
    Event,
    Finding,
    LaunchEnded,
    NodeFenced,
    NodeHeard,
    NodeProbed,
    NodeSuspected,
    Outcome,
    Part,
    PartPending,
    PartSaved,
    RankExited,
    RequeueAnswered,
    ScratchShared,
    SlurmReported,
    StopRequested,
    StorageStalled,
    StoreScanned,
    TimerFired,
    Witness,
    WorldMustered,
)
from ftslurm.core.recovery import Policy
from ftslurm.core.run import advance
from ftslurm.core.state import Run
from ftslurm.journal import Entry
from tests.core.cluster_words import ClusterWords
from tests.core.hang_words import HangWords
from tests.core.health_words import HealthWords
from tests.core.laws import Laws
from tests.core.render import action_line, state_lines
from tests.core.ring_words import RingWords
from tests.core.saving_words import SavingWords, generation_of

DASHES = "----"


def _many(text: str) -> tuple[str | int, ...]:
    return tuple(int(each) if each.isdigit() else each for each in text.split(","))


@dataclass
class Words:
    """The words of a line: plain ones, and those of the form name=value."""

    plain: list[str] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Words:
        words = cls()
        for text in texts:
            name, equals, value = text.partition("=")
            if equals and name.isidentifier():
                words.named[name] = value.replace("\\n", "\n")
            else:
                words.plain.append(text)
        return words

    def flag(self, name: str) -> bool:
        """Tell whether a plain word is there, and take it away."""
        there = name in self.plain
        self.plain = [word for word in self.plain if word != name]
        return there

    def number(self, name: str, default: float) -> float:
        return float(self.named.get(name, default))

    def whole(self, name: str, default: int) -> int:
        return int(self.named.get(name, default))

    def nodes(self, default: Iterable[str] = ()) -> tuple[str, ...]:
        return tuple(self.plain) or tuple(default)


def policy_of(line: str) -> Policy:
    """Return the policy of a scenario's first line: fields of `core.recovery.Policy`, a bare word is True."""
    name, *texts = shlex.split(line)
    assert name == "policy", "a scenario begins with its policy"
    words, hints = Words.of(texts), get_type_hints(Policy)
    values: dict[str, Any] = dict.fromkeys(words.plain, True)
    for key, text in words.named.items():
        kind = float if hints[key] == float | None else hints[key]
        values[key] = kind(text) if isinstance(kind, type) else _many(text)
    return Policy(**values)


@dataclass
class Story(HealthWords, HangWords, ClusterWords, RingWords, SavingWords):
    """A run that is told line by line."""

    policy: Policy
    run: Run = field(default_factory=Run)
    mono: float = 1000.0
    entries: list[Entry] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    quiet: bool = False

    def __post_init__(self) -> None:
        self.laws = Laws(self.policy)

    # ------------------------------------------------------------------------------------------------- telling

    def tell(self, line: str) -> None:
        """Let the line happen, and log what follows."""
        name, *texts = shlex.split(line)
        self.log.append(f"> {line}")
        before, length = self.run.phase, len(self.log)
        getattr(self, f"do_{name}")(Words.of(texts))
        if self.run.phase is not before:
            self.log.append(f"  = {self.run.phase}")
        elif len(self.log) == length:
            self.log.append("  nothing")

    def happen(self, event: Event) -> None:
        """Take one step."""
        event = replace(event, at=self.mono + 1.7e9, mono=self.mono)
        run, actions = advance(self.run, event, self.policy)
        self.entries.append(Entry(len(self.entries), run.epoch, event.at, run.phase, event, actions))
        self.run = run
        self.laws.check(event, run, actions)
        if not self.quiet:
            self.log += [f"  {action_line(action)}" for action in actions]

    # -------------------------------------------------------------------------------------- shorthand for stories

    def do_wait(self, words: Words) -> None:
        """`wait 600`: seconds pass."""
        self.mono += float(words.plain[0])

    def do_running(self, words: Words) -> None:
        """`running nodes=n1,n2 ...`: granted, agents, scanned and mustered, without a log."""
        self.quiet = True
        nodes = words.named["nodes"].split(",")
        saved = [text for text in words.named.pop("saved", "").split(",") if text]
        self.do_granted(words)
        self.do_agent(Words(plain=nodes))
        self.do_scanned(Words(plain=saved))
        if saved:
            self.do_ready(Words())
        self.do_mustered(Words())
        self.quiet = False

    def do_save(self, words: Words) -> None:
        """`save 20 [local]`: every node of the attempt saves step 20, and unless `local` it becomes durable."""
        local = words.flag("local")
        self.quiet = True
        step = words.plain[0]
        assert self.run.attempt is not None
        name = f"{step}@{self.run.attempt.number}"
        self.do_part(words)
        if not local:
            self.do_drained(Words(plain=[name]))
            self.do_durable(Words(plain=[name]))
        self.quiet = False

    def do_restart_supervisor(self, words: Words) -> None:
        """`restart_supervisor [host=n2]`: the next epoch of the same incarnation; with a host a takeover by it."""
        host = words.named.get("host", "")
        self.mono += 3.0
        run = self.run
        self.happen(
            AllocationGranted(
                job_id=run.job_id,
                restart=run.restart,
                nodes=run.nodes,
                batch_host=run.batch_host,
                epoch=run.epoch + 1,
                no_kill=run.no_kill,
                same_incarnation=True,
                wanted_nodes=run.wanted,
                host=host,
                takeover="nothing was heard of it for 6.1 s, and Slurm says that the job runs" if host else "",
            )
        )

    # -------------------------------------------------------------------------------------------------- the job

    def do_granted(self, words: Words) -> None:
        nodes = tuple(words.named["nodes"].split(","))
        no_kill, resumed = words.flag("no_kill"), words.flag("resumed")
        self.happen(
            AllocationGranted(
                job_id=words.named.get("job", self.run.job_id or "100"),
                restart=words.whole("restart", 0),
                nodes=nodes,
                batch_host=nodes[0],
                epoch=self.run.epoch + 1,
                no_kill=no_kill,
                resumed=resumed,
                wanted_nodes=words.whole("wanted", len(nodes)),
                end_time=self.mono + 1.7e9 + words.number("ends_in", 0) if "ends_in" in words.named else None,
                continue_by=words.named.get("continue_by", ""),
            )
        )

    def do_slurm(self, words: Words) -> None:
        gone = tuple(node for node in words.named.get("gone", "").split(",") if node)
        self.happen(SlurmReported(job_state=words.plain[0], gone=gone, error=words.named.get("error", "")))

    def do_stop(self, words: Words) -> None:
        by, within_s = words.named.get("by", ""), words.number("within", 0)
        self.happen(StopRequested(why=words.plain[0], save=words.flag("save"), by=by, within_s=within_s))

    def do_requeue_answered(self, words: Words) -> None:
        self.happen(RequeueAnswered(ok=words.flag("ok"), detail=words.named.get("detail", "")))

    def do_timer(self, words: Words) -> None:
        """`timer NAME [stale]`: the timer that is set now runs out, or one that it has replaced."""
        stale = words.flag("stale")
        name = words.plain[0]
        token = self.run.timers.get(name, 0)
        assert stale or token, f"no timer {name}: {sorted(self.run.timers)}"
        self.happen(TimerFired(name=name, token=token - 1 if stale else token))

    def do_stalled(self, words: Words) -> None:
        self.happen(StorageStalled(for_s=float(words.plain[0])))

    # ------------------------------------------------------------------------------------------------ the nodes

    def do_agent(self, words: Words) -> None:
        scratch = not words.flag("bare")
        for node in words.nodes():
            self.happen(AgentUp(node=node, address=f"10.0.0.{node.strip('n')}", port=20000, scratch=scratch))

    def do_shared(self, words: Words) -> None:
        for node in words.nodes():
            reason = f"/scratch/r is the same folder on {words.named['with']}"
            self.happen(ScratchShared(node=node, reason=reason))

    def do_agent_lost(self, words: Words) -> None:
        for node in words.nodes():
            self.happen(AgentLost(node=node, reason=words.named.get("reason", "connection reset")))

    def do_suspect(self, words: Words) -> None:
        for node in words.nodes():
            silent_s, patience = words.number("silent", 3.1), words.number("patience", 1.0)
            self.happen(NodeSuspected(node=node, silent_s=silent_s, phi=9.0, peers=4, patience=patience))

    def do_heard(self, words: Words) -> None:
        for node in words.nodes():
            self.happen(NodeHeard(node=node))

    def do_probed(self, words: Words) -> None:
        """`probed n3 ping=unreachable tcp=ok:refused ... [partial]`."""
        final = not words.flag("partial")
        findings = []
        for name, text in words.named.items():
            outcome, _, detail = text.partition(":")
            findings.append(Finding(witness=Witness(name), outcome=Outcome(outcome), detail=detail))
        self.happen(NodeProbed(node=words.plain[0], findings=tuple(findings), final=final))

    # ------------------------------------------------------------------------------------------------ the ranks

    def do_mustered(self, words: Words) -> None:
        """`mustered [n1 n1 n2 ...]`: the ranks of the current attempt are there, by default where they were planned."""
        attempt = self.run.attempt
        assert attempt is not None
        planned = [node for node in attempt.nodes for _ in range(self.policy.ranks_per_node)]
        self.happen(
            WorldMustered(
                attempt=words.whole("attempt", attempt.number),
                placement=words.nodes(planned),
                master_addr="10.0.0.1",
                master_port=words.whole("port", 29500 + attempt.number),
            )
        )

    def do_exit(self, words: Words) -> None:
        signal = words.whole("signal", 0)
        for rank in _numbers(words.named["rank"]):
            self.happen(
                RankExited(
                    attempt=words.whole("attempt", self.run.attempt.number if self.run.attempt else 0),
                    rank=rank,
                    node=words.named.get("node", self._home(rank)),
                    code=words.whole("code", 128 + signal if signal else 0),
                    signal=signal,
                    tail=words.named.get("tail", ""),
                    oom=words.flag("oom"),
                )
            )

    def _home(self, rank: int) -> str:
        attempt = self.run.attempt
        return attempt.placement[rank] if attempt and rank < len(attempt.placement) else "n1"

    def do_launch_ended(self, words: Words) -> None:
        number = words.whole("attempt", self.run.attempt.number if self.run.attempt else 0)
        self.happen(LaunchEnded(attempt=number, code=words.whole("code", 1), output=words.named.get("output", "")))

    def do_fenced(self, words: Words) -> None:
        """`fenced [n1 ...] [left=...]`: by default all nodes of the attempt that can be asked."""
        attempt = self.run.attempt
        assert attempt is not None
        left = tuple(text for text in words.named.get("left", "").split(",") if text)
        for node in words.nodes(node for node in attempt.nodes if node in self.run.usable):
            self.happen(NodeFenced(node=node, attempt=words.whole("attempt", attempt.number), left=left))

    # ------------------------------------------------------------------------------------------------ checkpoints

    def do_scanned(self, words: Words) -> None:
        """`scanned 10@0 20@0 [refused=30@0:why]`."""
        world = self.run.wanted * self.policy.ranks_per_node
        found = tuple((generation_of(text), int(text.partition("@")[0]), world) for text in words.plain)
        name, _, why = words.named.get("refused", "").partition(":")
        self.happen(StoreScanned(generations=found, refused=((generation_of(name), why),) if name else ()))

    def do_pending(self, words: Words) -> None:
        gone, attempt = words.flag("gone"), self.run.attempt
        step, *nodes = words.plain
        number = words.whole("attempt", attempt.number if attempt else 0)
        for node in nodes:
            self.happen(PartPending(attempt=number, step=int(step), node=node, gone=gone))

    def do_part(self, words: Words) -> None:
        """`part 20 [n1 ...] [ranks=0,1] [attempt=0] [base=10@0] [seen=7]`: nodes hold complete files."""
        base = generation_of(words.named["base"]) if "base" in words.named else ""
        about = About(kind=SaveKind.DIFF, base=base) if base else None
        attempt = self.run.attempt
        step, *nodes = words.plain
        ranks = tuple(_numbers(words.named["ranks"])) if "ranks" in words.named else ()
        for node in nodes or (attempt.nodes if attempt else ()):
            part = Part(
                node=node,
                manifest_digest=f"{words.whole('seen', int(step)):032x}",
                files=1,
                size_bytes=1 << 20,
                ranks=ranks,
            )
            number = words.whole("attempt", attempt.number if attempt else 0)
            world = attempt.world_size if attempt else 0
            self.happen(PartSaved(attempt=number, step=int(step), part=part, world_size=world, about=about))


def _numbers(text: str) -> list[int]:
    """Return the numbers of `0-2,5`."""
    found: list[int] = []
    for piece in text.split(","):
        low, _, high = piece.partition("-")
        found += range(int(low), int(high or low) + 1)
    return found


def play(text: str) -> tuple[Story, str]:
    """Return the story of a scenario's text, and the whole text with the expected part as it comes out now."""
    told = text.partition(f"\n{DASHES}\n")[0].rstrip("\n")
    lines = [line for line in told.splitlines() if line.strip() and not line.startswith("#")]
    story = Story(policy_of(lines[0]))
    for line in lines[1:]:
        story.tell(line)
    log = [*story.log, DASHES, *state_lines(story.run)]
    return story, "\n".join([told, DASHES, *log]) + "\n"
