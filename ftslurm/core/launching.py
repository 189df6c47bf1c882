"""Starting an attempt: which nodes, which checkpoint, and when the waiting ranks may begin.

The ranks are started at once and wait in their wrappers while the checkpoint is brought to their nodes and verified, so
that process start and restore overlap. They are released when the world is the planned one *and* every node has every
verified byte.
"""

from __future__ import annotations

from dataclasses import replace

from ftslurm.core.actions import Action, LaunchAttempt, Quarantine, ReleaseRanks, Restore, Say
from ftslurm.core.copies import whereabouts
from ftslurm.core.draining import next_target
from ftslurm.core.ending import FAILED, REQUEUE, leave
from ftslurm.core.events import Phase, RestoreReady, RestoreRefused
from ftslurm.core.health import fit_nodes
from ftslurm.core.phases import LAUNCHING, LIVE, enter
from ftslurm.core.placement import arranged, best_first, usable
from ftslurm.core.recovery import FIXED_WORLD, NONE, Policy
from ftslurm.core.situation import released
from ftslurm.core.state import Attempt, Run, Saved, SavedState
from ftslurm.core.timers import set_timer

MUSTER = "muster"
RESTORE = "restore"
AGAIN = "restore_again:"
RETRY_S = 3.0
DATA_DAMAGED = 65
SERVICE_AWAY = 69
KEPT_PORTS = 16


def first(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Start the first attempt of an incarnation when every node has an agent, or has been given up."""
    few = len(run.agents) + len(run.condemned) < len(run.nodes)  # asked for every agent: cheap for thousands
    if run.attempt is not None or few or not set(run.nodes) <= run.agents | set(run.condemned) or not run.scanned:
        return run, ()
    return first_with_what_is_there(run, policy)


def first_with_what_is_there(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Start the first attempt on the nodes that are usable now."""
    places, strategy = run.survey.places, policy.placement
    ready = fit_nodes(run, policy)
    nodes = best_first(ready, strategy, places)[: run.wanted]
    sizes = _world_sizes(run, policy)
    count = usable(nodes, policy.ranks_per_node, policy.world_multiple_of, sizes)
    if count >= max(policy.min_nodes, 1):
        return launch(run, arranged(ready, nodes[:count], strategy, places), policy)
    reason = f"{count} of {len(run.nodes)} nodes are usable, min_nodes is {policy.min_nodes}"
    if sizes != policy.world_sizes:
        reason = f"{len(nodes)} nodes do not make the {sizes[0]} ranks that wrote the checkpoint; {FIXED_WORLD}"
    again = policy.continue_by != NONE and run.requeues < policy.max_requeues
    return leave(run, REQUEUE if again else FAILED, policy, code=1, reason=reason)


def _world_sizes(run: Run, policy: Policy) -> tuple[int, ...]:
    """The worlds that can load what the run would start from."""
    saved = None if policy.reshards else run.restorable()
    return (saved.world_size,) if saved is not None and saved.world_size else policy.world_sizes


def launch(run: Run, nodes: tuple[str, ...], policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Start the next attempt on these nodes from the newest checkpoint that can be had."""
    number = run.next_attempt
    world_size = len(nodes) * policy.ranks_per_node
    attempt = Attempt(number=number, nodes=nodes, world_size=world_size, launched_mono=run.now)
    run = replace(run, attempt=attempt, next_attempt=number + 1, incident=(), blame=None, evidence=())
    saved = run.restorable()
    if saved is None and _had_some(run):
        return _no_good_checkpoint(run, policy)
    start = LaunchAttempt(
        attempt=number,
        nodes=nodes,
        world_size=attempt.world_size,
        generation=saved.generation if saved else "",
        avoid_ports=run.used_ports,
    )
    run, timer = set_timer(run, MUSTER, policy.muster_s)
    run, more = restore_from(run, saved, policy)
    return run, (start, timer, *more)


def restore_from(run: Run, saved: Saved | None, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Choose the checkpoint of the attempt that is being started; a LOCAL one comes straight from the nodes."""
    attempt = run.current
    if saved is None:
        return replace(run, attempt=replace(attempt, generation="", step=0, restored={})), ()
    run = replace(run, attempt=replace(attempt, generation=saved.generation, step=saved.step, restored={}))
    run, timer = set_timer(run, RESTORE, policy.restore_s)
    if not _is_digested(saved):
        run, more = next_target(replace(run, urgent=True), policy)
        return run, (timer, *more)
    return run, (timer, _restore(run, saved, attempt.nodes))


def _is_digested(saved: Saved) -> bool:
    """Tell whether there is something to compare the bytes with: files that stay in place are digested at leisure."""
    return not saved.in_place or saved.state is SavedState.DURABLE


def on_digested(run: Run, generation: str, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """The checkpoint that the attempt waits for is committed, or cannot be any more."""
    attempt, saved = run.attempt, run.find_saved(generation)
    if run.phase not in LAUNCHING or attempt is None or attempt.generation != generation:
        return run, ()
    if saved is None or not saved.in_place:
        return run, ()
    return on_loss(run, policy) if saved.state is SavedState.LOST else (run, ask_restore(run))


def _restore(run: Run, saved: Saved, nodes: tuple[str, ...]) -> Restore:
    wanted = whereabouts(run, saved)
    return Restore(generation=saved.generation, attempt=run.current.number, nodes=nodes, wanted=wanted)


def ask_restore(run: Run) -> tuple[Restore, ...]:
    """Ask the nodes that have no copy yet for the checkpoint of the attempt that is being started."""
    attempt = run.attempt
    saved = run.find_saved(attempt.generation) if attempt else None
    good = saved is not None and saved.state in (SavedState.LOCAL, SavedState.DURABLE) and _is_digested(saved)
    if run.phase not in LAUNCHING or attempt is None or saved is None or not good:
        return ()
    missing = tuple(node for node in attempt.nodes if node not in attempt.restored)
    return (_restore(run, saved, missing),) if missing else ()


def on_agent_back(run: Run, node: str) -> tuple[Run, tuple[Action, ...]]:
    """An agent that was started again does not know what the one before it had at hand, or had been told."""
    attempt = run.attempt
    if attempt is None or node not in attempt.nodes or run.phase not in LIVE | LAUNCHING:
        return run, ()
    if run.phase in LIVE:
        return run, (replace(_go(attempt), again=(node,)),)
    kept = {each: path for each, path in attempt.restored.items() if each != node}
    return on_restore_again(replace(run, attempt=replace(attempt, restored=kept)), node)


def on_restore_again(run: Run, node: str) -> tuple[Run, tuple[Action, ...]]:
    """Ask one node once more, if it has no copy yet; the others may still be busy."""
    return run, tuple(replace(ask, nodes=(node,)) for ask in ask_restore(run) if node in ask.nodes)


def on_loss(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """A node outside the attempt is gone, and may have held a part of the checkpoint that the attempt waits for."""
    attempt = run.attempt
    saved = run.find_saved(attempt.generation) if attempt else None
    if saved is None or saved.state is not SavedState.LOST:
        return run, ()
    if run.restorable() or _had_some(run):
        return _older(run, saved.generation, SavedState.LOST, policy)
    run, _ = restore_from(run, None, policy)
    return release(run, policy)


def on_restore_ready(run: Run, event: RestoreReady, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """One node has the checkpoint."""
    attempt = run.attempt
    if attempt is None or event.attempt != attempt.number or event.generation != attempt.generation:
        return run, ()
    run = replace(run, attempt=replace(attempt, restored={**attempt.restored, event.node: event.path}))
    return release(run, policy)


def on_restore_refused(run: Run, event: RestoreRefused, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """A checkpoint is damaged (take the previous good one), or cannot be read right now (try again)."""
    attempt = run.attempt
    if attempt is None or event.attempt != attempt.number or event.generation != attempt.generation:
        return run, ()
    if not event.damaged:
        run, timer = set_timer(run, AGAIN + event.node, RETRY_S)
        text = f"checkpoint {event.generation} cannot be read on {event.node} yet: {event.reason}"
        return run, (Say(text=text, slug="restore_failed"), timer)
    if run.find_saved(event.generation) is None:
        said = Say(text=f"checkpoint {event.generation} was removed for a newer one meanwhile", slug="restore_over")
        run, more = _older(run, event.generation, SavedState.LOST, policy)
        return run, (said, *more)
    text = f"checkpoint {event.generation} is damaged and set aside: {event.reason}"
    set_aside = Quarantine(generation=event.generation, reason=event.reason)
    run, more = _older(run, event.generation, SavedState.DAMAGED, policy)
    return run, (Say(text=text, slug="checkpoint_damaged"), set_aside, *more)


def on_refused_later(run: Run, event: RestoreRefused, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """A rank that runs already could not load its checkpoint: the next attempt takes an older one."""
    del policy
    attempt = run.attempt
    saved = run.find_saved(event.generation)
    good = saved is not None and saved.state in (SavedState.LOCAL, SavedState.DURABLE)
    if (
        attempt is None
        or saved is None
        or not good
        or event.generation not in (attempt.generation, run.base_of(attempt))
    ):
        return run, ()
    if event.attempt != attempt.number or not event.damaged:
        return run, ()
    text = f"checkpoint {event.generation} could not be loaded on {event.node} and is set aside: {event.reason}"
    set_aside = Quarantine(generation=event.generation, reason=event.reason)
    run = run.with_saved(replace(saved, state=SavedState.DAMAGED))
    return run, (Say(text=text, slug="checkpoint_damaged"), set_aside)


def on_restore_over(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """A checkpoint could not be had in time: take the next older one."""
    attempt = run.attempt
    if attempt is None or not attempt.generation or set(attempt.restored) >= set(attempt.nodes):
        return run, ()
    said = Say(text=f"checkpoint {attempt.generation} could not be brought to the nodes in time", slug="restore_over")
    run, more = _older(run, attempt.generation, SavedState.LOST, policy)
    return run, (said, *more)


def _older(run: Run, generation: str, state: SavedState, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    bad = run.find_saved(generation)
    if bad is not None:
        run = run.with_saved(replace(bad, state=state))
    older = run.restorable()
    return _no_good_checkpoint(run, policy) if older is None else restore_from(run, older, policy)


def _had_some(run: Run) -> bool:
    """Tell whether there are checkpoints that are kept, and not to be used."""
    return any(each.state in (SavedState.DAMAGED, SavedState.SUSPECT) for each in run.saved)


def _no_good_checkpoint(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Never start from the beginning silently: checkpoints were there, and none is good, or none can be had."""
    if _had_some(run):
        code, what = DATA_DAMAGED, "no intact checkpoint is left"
    else:
        code, what = SERVICE_AWAY, "no checkpoint could be brought to the nodes"
    reason = f"{what}; the run is not started from the beginning by itself"
    return leave(run, FAILED, policy, code=code, reason=reason)


def release(run: Run, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Let the ranks begin, if the world has mustered and the checkpoint is at hand."""
    del policy
    attempt = run.current
    ready = not attempt.generation or set(attempt.nodes) <= set(attempt.restored)
    if not attempt.mustered or not ready or attempt.released or attempt.fencing:
        return run, ()
    run = released(run)
    attempt = run.current
    ports = (*run.used_ports, attempt.master_port)[-KEPT_PORTS:]
    kept = {name: token for name, token in run.timers.items() if name not in (MUSTER, RESTORE)}
    run = replace(run, attempt=replace(attempt, released=True), used_ports=ports, timers=kept, launch_failures=0)
    run = enter(run, Phase.SUSPECTING if run.suspects else Phase.TRAINING)
    source = f"from the checkpoint of step {attempt.step}" if attempt.generation else "from the beginning"
    text = f"attempt {attempt.number}: {attempt.world_size} ranks on {len(attempt.nodes)} nodes, {source}"
    return run, (Say(text=text, slug="released"), _go(attempt))


def _go(attempt: Attempt) -> ReleaseRanks:
    return ReleaseRanks(
        attempt=attempt.number,
        placement=attempt.placement,
        master_addr=attempt.master_addr,
        master_port=attempt.master_port,
        checkpoint=attempt.restored.get(attempt.placement[0], ""),
        step=attempt.step,
    )
