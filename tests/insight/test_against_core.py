from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ftslurm.core.events import (
    ENDED,
    AgentLost,
    GenerationDurable,
    LaunchEnded,
    NodeFenced,
    NodeHeard,
    PartDrained,
    PartPending,
    PartSaved,
    Phase,
    RestoreReady,
    RestoreRefused,
    SlurmReported,
    StopRequested,
    WorldMustered,
)
from ftslurm.core.events import Part as CorePart
from ftslurm.insight.render import render
from ftslurm.insight.story import story
from ftslurm.insight.summary import summarise
from ftslurm.insight.walltime import Category
from tests.insight.journals import DEAD, FROZEN, NODES, START, UNDECIDED, WELL, Tale, policy_for

WORDS = (DEAD, FROZEN, WELL, UNDECIDED)
nodes = st.sampled_from(NODES)


def _muster(tale: Tale) -> None:
    attempt = tale.run.attempt
    if attempt is not None:
        placement = tuple(node for node in attempt.nodes for _ in range(2))
        tale.happen(WorldMustered(attempt=attempt.number, placement=placement, master_addr="a", master_port=1))


def _restored(tale: Tale) -> None:
    attempt = tale.run.attempt
    if attempt is not None and attempt.generation:
        for node in attempt.nodes:
            tale.happen(
                RestoreReady(generation=attempt.generation, node=node, attempt=attempt.number, path="/scratch/x")
            )


def _exit(tale: Tale, rank: int, *, code: int) -> None:
    attempt = tale.run.attempt
    if attempt is not None and attempt.placement and rank < attempt.world_size:
        tale.exit(rank, code=code)


def _timer(tale: Tale, index: int) -> None:
    if tale.run.timers:
        tale.timer(sorted(tale.run.timers)[index % len(tale.run.timers)])


def _grant(tale: Tale, *, kind: str) -> None:
    if kind == "requeued":
        tale.restart += 1
    tale.granted(resumed=kind == "resumed", job_id=str(int(tale.job_id) + 1) if kind == "resumed" else "")


def _part(tale: Tale, node: str, step: int) -> None:
    attempt = tale.run.attempt
    if attempt is not None:
        part = CorePart(node=node, manifest_digest="0" * 32, files=1, size_bytes=1)
        tale.happen(PartSaved(attempt=attempt.number, step=step, part=part, world_size=attempt.world_size))


def _pending(tale: Tale, node: str, step: int, *, gone: bool) -> None:
    attempt = tale.run.attempt
    if attempt is not None:
        tale.happen(PartPending(attempt=attempt.number, step=step, node=node, gone=gone))


def _durable(tale: Tale, *, error: str = "") -> None:
    if tale.run.drain_target:
        tale.happen(GenerationDurable(generation=tale.run.drain_target, digest="d", error=error))


def _save(tale: Tale, step: int, *, durable: bool) -> None:
    if tale.run.attempt is not None:
        tale.save(step, durable=durable)


def _recover(tale: Tale, node: str, words: int) -> None:
    """A node is lost and the rest comes back, as far as the core asks for it."""
    _lose(tale, node, words, final=True)
    for each in NODES:
        tale.happen(NodeFenced(node=each, attempt=max(tale.run.next_attempt - 1, 0)))
    _restored(tale)
    _muster(tale)


def _crash(tale: Tale, rank: int) -> None:
    _exit(tale, rank, code=1)
    for each in NODES:
        tale.happen(NodeFenced(node=each, attempt=max(tale.run.next_attempt - 1, 0)))
    _restored(tale)
    _muster(tale)


def _damaged(tale: Tale) -> None:
    attempt = tale.run.attempt
    if attempt is not None and attempt.generation:
        tale.happen(
            RestoreRefused(
                generation=attempt.generation,
                node=attempt.nodes[0],
                attempt=attempt.number,
                reason="bits",
                damaged=True,
            )
        )


def _lose(tale: Tale, node: str, words: int, *, final: bool) -> None:
    tale.silent(node)
    tale.probed(node, WORDS[words], final=final)


steps = st.integers(1, 40)
usual = st.one_of(
    st.builds(lambda s, d: lambda t: _save(t, s, durable=d), steps, st.booleans()),
    st.builds(lambda n, w: lambda t: _recover(t, n, w), nodes, st.integers(0, 1)),
    st.builds(lambda r: lambda t: _crash(t, r), st.integers(0, 3)),
    st.builds(lambda: lambda t: (_restored(t), _muster(t))),
)
odd = st.one_of(
    st.builds(lambda: _damaged),
    st.builds(lambda n: lambda t: t.agent(n), nodes),
    st.builds(lambda: lambda t: [t.agent(n) for n in NODES]),
    st.builds(lambda: lambda t: t.scan()),
    st.builds(lambda n: lambda t: t.happen(AgentLost(node=n, reason="EOF")), nodes),
    st.builds(lambda n: lambda t: t.happen(NodeHeard(node=n)), nodes),
    st.builds(lambda n, w, f: lambda t: _lose(t, n, w, final=f), nodes, st.integers(0, 3), st.booleans()),
    st.builds(lambda: _muster),
    st.builds(lambda: _restored),
    st.builds(lambda r, c: lambda t: _exit(t, r, code=c), st.integers(0, 7), st.sampled_from([0, 1])),
    st.builds(lambda: lambda t: [_exit(t, r, code=0) for r in range(8)]),
    st.builds(lambda n: lambda t: t.happen(NodeFenced(node=n, attempt=max(t.run.next_attempt - 1, 0))), nodes),
    st.builds(lambda: lambda t: [t.happen(NodeFenced(node=n, attempt=max(t.run.next_attempt - 1, 0))) for n in NODES]),
    st.builds(lambda n, s, g: lambda t: _pending(t, n, s, gone=g), nodes, steps, st.booleans()),
    st.builds(lambda n, s: lambda t: _part(t, n, s), nodes, steps),
    st.builds(lambda s: lambda t: [_part(t, n, s) for n in NODES], steps),
    st.builds(lambda n: lambda t: t.happen(PartDrained(generation=t.run.drain_target, node=n)), nodes),
    st.builds(lambda: lambda t: [t.happen(PartDrained(generation=t.run.drain_target, node=n)) for n in NODES]),
    st.builds(lambda: _durable),
    st.builds(lambda: lambda t: _durable(t, error="EIO")),
    st.builds(lambda n: lambda t: t.happen(SlurmReported(job_state="RUNNING", gone=(n,))), nodes),
    st.builds(lambda w: lambda t: t.happen(StopRequested(why=w, save=True)), st.sampled_from(["cancel", "time_limit"])),
    st.builds(lambda: lambda t: t.happen(LaunchEnded(attempt=max(t.run.next_attempt - 1, 0), code=1))),
    st.builds(lambda: lambda t: t.requeued() if t.run.phase is Phase.DRAINING else None),
    st.builds(lambda k: lambda t: _grant(t, kind=k), st.sampled_from(["adopted", "requeued", "resumed"])),
    st.builds(lambda i: lambda t: _timer(t, i), st.integers(0, 9)),
)
deeds = st.booleans().flatmap(lambda likely: usual if likely else odd)


@settings(max_examples=400)
@given(st.lists(deeds, max_size=40), st.booleans())
def test_the_summary_is_what_the_core_knows(script, started):
    """Whatever happens, the record made from the journal agrees with the state of the core that wrote it."""
    tale = Tale(policy_for(min_nodes=1))
    if started:
        tale.start()
    else:
        tale.granted()
    for deed in script:
        tale.wait(1.0)
        deed(tale)
    told, run = summarise(tale.entries), tale.run
    assert (told.phase, told.epoch, told.job_id, told.restart) == (run.phase, run.epoch, run.job_id, run.restart)
    assert told.attempt == (run.next_attempt - 1 if run.next_attempt else None)
    assert told.nodes == (run.attempt.nodes if run.attempt else ())
    assert set(told.excluded) == set(run.condemned)
    assert (told.newest.step if told.newest else -1) == run.newest_step
    assert told.requeues == run.requeues
    if run.phase in ENDED:
        assert (told.code, told.reason) == (run.code, run.reason)


@settings(max_examples=400)
@given(st.lists(deeds, max_size=40))
def test_any_story_can_be_told_and_its_times_add_up(script):
    """Every journal that the core can write becomes a story, and its categories sum to its length."""
    tale = Tale(policy_for(min_nodes=1)).start()
    for deed in script:
        tale.wait(1.0)
        deed(tale)
    told = story(tale.entries)
    text = render(told, width=80)
    assert all(len(line) <= 80 for line in text.splitlines())
    totals = told.totals
    assert abs(sum(totals.spent.values()) - totals.total_s) < 1e-6
    assert 0.0 <= totals.lost_s <= totals.spent[Category.PRODUCTIVE] + totals.spent[Category.RECOMPUTING] + 1e-6
    assert totals.total_s <= tale.now - START + 1e-6
    assert set(told.excluded) == set(tale.run.condemned)
    assert [each.number for each in told.incidents] == list(range(1, len(told.incidents) + 1))
    for each in told.incidents:
        assert each.sign <= each.noticed <= each.decided
        assert each.released is None or each.released >= each.decided
