"""Partner copies: every node's part of the newest whole checkpoint lies on a second node as well.

The partners form a ring over the nodes that can be used. Where switches are known it is turned so far that a partner is
behind another switch; else by half its length. When every part of a checkpoint has its copy, older ones may leave the
nodes: the loss of one node, or of one switch, takes none of it away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ftslurm.core.actions import Action, CleanScratch, Pair, Replicate, Say, Whereabouts
from ftslurm.core.draining import WHOLE, needed, without_older
from ftslurm.core.events import AgentUp, PartReplicated, ScratchShared
from ftslurm.core.recovery import Policy
from ftslurm.core.state import Run, Saved, SavedState
from ftslurm.core.timers import set_timer

RETRY = "copy:"
RETRY_S = 5.0
NO_SCRATCH = "no_scratch"
SHARED_SCRATCH = "shared_scratch"


def partners(nodes: Sequence[str], switches: Mapping[str, str]) -> dict[str, str]:
    """Return the partner of each node; none has one where there is only one node.

    Sorted by switch, a turn by the size of the largest group leads from every group into another, unless one switch
    has more than half of all nodes.
    """
    if len(nodes) < 2:
        return {}
    sizes = Counter(switches.get(node, "") for node in nodes)
    ring = sorted(nodes, key=lambda node: switches.get(node, ""))
    largest = max(sizes.values())
    turn = largest if 2 * largest <= len(nodes) else len(nodes) // 2
    return {node: ring[(place + turn) % len(ring)] for place, node in enumerate(ring)}


def replicate(run: Run, policy: Policy, concerning: str = "") -> tuple[Replicate, ...]:
    """Ask for the copies that the newest whole checkpoint, and what it builds upon, lack.

    `concerning`: only for those that this node has a hand in.
    """
    newest = next((each for each in reversed(run.saved) if each.state in WHOLE and each.parts), None)
    if newest is None or not policy.partner:
        return ()
    ring = partners([node for node in run.usable if node not in run.bare], run.survey.places.switches)
    base = run.find_saved(newest.base) if newest.base else None
    asked = []
    for saved in (newest, *((base,) if base is not None and base.state in WHOLE else ())):
        pairs = [
            pair for pair in _lacking(run, saved, ring) if concerning in ("", pair.owner, pair.holder, *pair.sources)
        ]
        asked += [Replicate(generation=saved.generation, pairs=tuple(pairs))] if pairs else []
    return tuple(asked)


def on_scratch(run: Run, event: AgentUp, policy: Policy) -> tuple[Run, tuple[Say, ...]]:
    """An agent tells whether its node has scratch: without, there is nothing to copy from, and nowhere to copy to."""
    run = replace(run, bare=run.bare - {event.node} if event.scratch else run.bare | {event.node})
    if event.scratch or not policy.partner or NO_SCRATCH in run.told:
        return run, ()
    text = f"{event.node} has no scratch: checkpoints are written to shared storage there, and partners get no copies"
    return replace(run, told=run.told | {NO_SCRATCH}), (Say(text=text, slug=NO_SCRATCH),)


def on_shared_scratch(run: Run, event: ScratchShared) -> tuple[Run, tuple[Say, ...]]:
    """A folder that two nodes have in common is no scratch: each would take the other's files for its own."""
    run = replace(run, bare=run.bare | {event.node})
    if SHARED_SCRATCH in run.told:
        return run, ()
    text = f"no scratch on {event.node}: {event.reason}; checkpoints are written to shared storage at once"
    return replace(run, told=run.told | {SHARED_SCRATCH}), (Say(text=text, slug=SHARED_SCRATCH),)


def _lacking(run: Run, saved: Saved, ring: Mapping[str, str]) -> list[Pair]:
    """The copies that are missing: a part that only one node holds which can be asked.

    They are of no use where another part is with nobody.
    """
    if not saved.on_nodes(run.agents):
        return []
    pairs = []
    for part in saved.parts:
        there = saved.keepers(part.node) & run.agents
        if len(there) != 1 or part.node in run.bare:
            continue
        (source,) = there
        holder = ring.get(source, source)
        if holder != source:
            pairs.append(Pair(owner=part.node, holder=holder, digest=part.manifest_digest, sources=(source,)))
    return pairs


def on_replicated(run: Run, event: PartReplicated, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """A copy is there, or could not be made: then it is tried again after a while, if it is still of use."""
    saved = run.find_saved(event.generation)
    if saved is None or saved.state not in WHOLE or event.owner not in saved.holders:
        return run, ()
    if event.error:
        wanted = [ask.pairs for ask in replicate(run, policy) if ask.generation == event.generation]
        if not any(pair.owner == event.owner for pairs in wanted for pair in pairs):
            return run, ()  # it was overtaken, and may have left its owner's scratch meanwhile
        run, timer = set_timer(run, f"{RETRY}{event.owner}", RETRY_S)
        text = f"checkpoint {event.generation}: {event.holder} cannot copy the part of {event.owner}: {event.error}"
        return run, (Say(text=text, slug="copy_failed"), timer)
    if event.holder not in run.nodes or event.holder in run.condemned:
        return run, ()
    was = is_partnered(run, saved)
    copies = {**saved.copies, event.owner: saved.copies.get(event.owner, frozenset()) | {event.holder}}
    changed = replace(saved, copies=copies)
    run = run.with_saved(changed)
    if was or not is_partnered(run, changed):
        return run, ()
    return _clean(run, changed)


def on_copy_again(run: Run, owner: str, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """The pause after a failed copy is over."""
    return run, replicate(run, policy, owner)


def is_partnered(run: Run, saved: Saved) -> bool:
    """Tell whether every part lies with two nodes that can be asked, or on shared storage from the beginning."""
    return all(owner in run.bare or len(saved.keepers(owner) & run.agents) > 1 for owner in saved.holders)


def _clean(run: Run, saved: Saved) -> tuple[Run, tuple[Action, ...]]:
    """Let the nodes delete what is older, but not the one before it, nor what is being drained or built upon."""
    before = [each for each in run.saved if each.state in WHOLE and each.order < saved.order]
    keep = {saved.generation, *(each.generation for each in before[-1:]), *filter(None, [run.drain_target])}
    keep |= needed(run)
    keep |= {each.base for each in run.saved if each.generation in keep and each.base}
    run = without_older(run, saved, frozenset(keep))
    return run, (CleanScratch(watermark=saved.generation, keep=tuple(sorted(keep))),)


def whereabouts(run: Run, saved: Saved) -> tuple[Whereabouts, ...]:
    """Return who can be asked for each part of a checkpoint, and of the one that it builds upon.

    Of one that lies otherwise on shared storage than on the nodes, nothing where the nodes do not have all of it: then
    it is taken as it was committed, as a whole.
    """
    base = run.find_saved(saved.base) if saved.base else None
    return tuple(
        Whereabouts(
            generation=each.generation,
            world_size=each.world_size,
            parts=each.parts,
            holders=tuple(_asked(run, each, part.node) for part in each.parts),
            about=each.about,
            packed=bool(each.packed),
        )
        for each in (saved, base)
        if each is not None and each.parts and (not each.packed or each.on_nodes(run.agents))
    )


def _asked(run: Run, saved: Saved, owner: str) -> tuple[str, ...]:
    """The owner first: what it wrote itself has travelled least."""
    return tuple(sorted(saved.keepers(owner) & run.agents, key=lambda node: (node != owner, node)))


def forget_node(run: Run, node: str) -> Run:
    """Return the run after a node has been given up: checkpoints that only it held, and that are not safe, are lost."""
    given_up = set(run.condemned) | {node}
    kept = []
    for saved in run.saved:
        left = {owner for owner in saved.holders if saved.keepers(owner) - given_up}
        only_here = frozenset() if saved.in_place else saved.holders - saved.drained
        local = saved.state is SavedState.LOCAL and bool(only_here - left)
        pending = saved.state is SavedState.PENDING and node in saved.pending | only_here
        kept.append(replace(saved, state=SavedState.LOST) if local or pending else saved)
    lost_target = any(each.generation == run.drain_target and each.state is SavedState.LOST for each in kept)
    return replace(run, saved=tuple(kept), drain_target="" if lost_target else run.drain_target)
