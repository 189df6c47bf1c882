"""From what the probe's processes wrote to facts, and to what is proven for the site profile. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ftslurm.doctor.facts import Value
from ftslurm.doctor.folder import MEMORY_FILE_SYSTEMS
from ftslurm.doctor.probe import NO_FOLDER, NO_PYTHON, Result
from ftslurm.doctor.slurm_rules import PMI_KINDS
from ftslurm.siteprofile import Proven

Record = Mapping[str, Any]


_STEPS = ("probe.overlap", "probe.without_gpu", "probe.all_gpus")


def facts(result: Result) -> dict[str, Value]:
    """All facts of a probe; what a part did not tell stays unknown."""
    known: dict[str, Value] = {
        "probe.job": result.job_id,
        "probe.nodes": tuple(result.batch.get("nodes", ())),
        "probe.answered": tuple(sorted(result.nodes)),
        "probe.sees_run_root": False if result.code == NO_FOLDER else True if result.batch else None,
        "probe.sees_python": False if result.code == NO_PYTHON else True if result.batch else None,
        "probe.log": result.log.strip().replace("\n", " / ")[-300:],
        "probe.requeue": result.requeue.get("allowed"),
        "probe.requeue_words": result.requeue.get("words", ""),
    }
    if result.batch:
        known |= _of_batch(result.batch)
    if result.nodes:
        nodes = [result.nodes[name] for name in sorted(result.nodes)]
        known |= {**_of_nodes(nodes), **_of_network(nodes), **_of_scratch(nodes, result.job_id), **_of_witnesses(nodes)}
    if set(result.batch.get("nodes", ())) != set(result.nodes):
        # Steps fail on a node that is lost or sick: that says nothing about what the site allows.
        known |= {name: None for name in _STEPS if not known.get(name)}
        known |= dict.fromkeys(("probe.met", "probe.mpi_works", "probe.mpi_wrong", "probe.mpi_failed"))
    return known


def proven(known: Mapping[str, Value], made: str) -> Proven:
    """What `submit` may take from these facts."""
    release, kinds = known.get("slurm.release"), known.get("probe.mpi_works")
    interface = known.get("probe.interface_advised")
    return Proven(
        made=made,
        slurm=str(release or ""),
        nodes=_texts(known.get("probe.nodes")),
        scratch=str(known.get("probe.scratch") or ""),
        scratch_private=_flag(known.get("probe.tmp_private")),
        interface=str(interface or ""),
        mpi=(next(iter(_texts(kinds)), "none")) if kinds is not None else "",
        mpi_offered=_texts(known.get("slurm.mpi_types")),
        requeue=_flag(known.get("probe.requeue")),
        sbatch=_flag(known.get("probe.sbatch")),
        ssh=_flag(known.get("probe.ssh_works")),
        ping=_flag(known.get("probe.ping_works")),
    )


def _of_batch(batch: Record) -> dict[str, Value]:
    known: dict[str, Value] = {}
    known["probe.has_gpus"] = "all_gpus" in batch
    for name in ("overlap", "without_gpu", "all_gpus"):
        step = batch.get(name)
        known[f"probe.{name}"] = step["code"] == 0 if step else None
        known[f"probe.{name}_words"] = step["words"] if step else None
    for name in ("scontrol", "sbatch"):
        known[f"probe.{name}"] = batch.get(name, {}).get("ok")
        known[f"probe.{name}_words"] = batch.get(name, {}).get("words", "")
    known["probe.nodes_words"] = batch.get("nodes_words", "")
    known["probe.asked_requeue"] = batch.get("scontrol", {}).get("requeue")
    known["probe.signal"] = batch.get("signal", {}).get("arrived")
    return known | _of_mpi(batch.get("mpi", {}))


def _of_mpi(tried: Mapping[str, Record]) -> dict[str, Value]:
    """Which kinds of MPI gave one world of the right size, and which gave a wrong one."""
    known: dict[str, Value] = {"probe.mpi_tried": tuple(tried)}
    sizes = {kind: [rank["size"] for rank in said["ranks"]] for kind, said in tried.items()}
    marked = {
        kind: bool(said["ranks"]) and all(rank["marked"] for rank in said["ranks"]) for kind, said in tried.items()
    }
    works = [kind for kind, said in tried.items() if sizes[kind] == [said["wanted"]] * said["wanted"]]
    if not works and marked and not any(size for each in sizes.values() for size in each):
        known["probe.mpi_works"] = None  # started, but there is no mpi4py to ask for the size of the world
    else:
        known["probe.mpi_works"] = tuple(sorted(works, key=_rank_of)) if tried else None
    known["probe.mpi_wrong"] = tuple(
        f"{kind} (world size {max(size or 0 for size in sizes[kind])} of {said['wanted']})"
        for kind, said in tried.items()
        if said["ranks"] and any(sizes[kind]) and kind not in works
    )
    known["probe.mpi_failed"] = tuple(kind for kind, said in tried.items() if not said["ranks"])
    return known


def _rank_of(kind: str) -> int:
    return PMI_KINDS.index(kind) if kind in PMI_KINDS else len(PMI_KINDS)


def _of_nodes(nodes: list[Record]) -> dict[str, Value]:
    """What each node is by itself; one bad node decides."""
    roots = [node["run_root"] for node in nodes]
    counts = [node["nvml"]["count"] for node in nodes if node["gpus_seen"]]
    return {
        "probe.root_writable": all(root.get("writable", False) for root in roots),
        "probe.root_sound": all(root.get("exclusive") and root.get("rename") for root in roots),
        "probe.root_fsync_s": max((root["fsync_s"] for root in roots if "fsync_s" in root), default=None),
        "probe.met": all(node["met"] for node in nodes),
        "probe.pythons": tuple(sorted({node["python"] for node in nodes})),
        "probe.cgroup": tuple(sorted({node["cgroup"] for node in nodes})),
        "probe.tmp_private": any(node["tmp_private"] for node in nodes),
        "probe.nofile": float(min(node["nofile"] for node in nodes)),
        "probe.leftovers": float(sum(node["leftovers"] for node in nodes)),
        "probe.gpus_seen": bool(counts),
        "probe.nvml": all(count is not None for count in counts) if counts else None,
        "probe.nvml_words": "; ".join(sorted({node["nvml"]["why"] for node in nodes} - {""})),
        "probe.no_ping": _names(node for node in nodes if "ping" not in node["programs"]),
    }


def _of_network(nodes: list[Record]) -> dict[str, Value]:
    """Connections between nodes, by the addresses that ranks and agents would use."""
    peers = [(node, peer, said) for node in nodes for peer, said in node.get("peers", {}).items()]
    offsets = [abs(said["offset_s"]) for _, _, said in peers if "offset_s" in said]
    by = {each for _, _, said in peers for each in said.get("by", ())}
    used = {node["interface"] for node in nodes if node["interface"]}
    connected = all(said["connected"] for _, _, said in peers) if peers else None
    ways = {(node["node"], peer): said["connected"] for node, peer, said in peers}
    return {
        "probe.connected": connected,
        "probe.unconnected": tuple(f"{node['node']} to {peer}" for node, peer, said in peers if not said["connected"]),
        "probe.unconnected_words": "; ".join(sorted({said.get("error", "") for _, _, said in peers} - {""}))[:200],
        "probe.one_way": tuple(f"{a} to {b}" for (a, b), works in ways.items() if works and ways.get((b, a)) is False),
        "probe.no_address": tuple(
            str(node["address"]).partition(": ")[2] for node in nodes if str(node["address"]).startswith("unknown")
        ),
        "probe.interface": tuple(sorted(used)),
        "probe.interface_advised": min(by) if by and connected is False else "",
        "probe.self_loopback": _names(node for node in nodes if str(node["resolved"]).startswith("127.")),
        "probe.no_port": _names(node for node in nodes if not node["port"]),
        "probe.clock_offset_s": max(offsets) if offsets else None,
        "probe.unresolved": tuple(sorted({peer for _, peer, said in peers if not said["resolved"]})),
    }


def _of_scratch(nodes: list[Record], job_id: str) -> dict[str, Value]:
    """Folders that can be written on every node and that no other node sees.

    The one for the profile is on a disk if there is one, and is not named after the job: the next job has another. What
    is mounted for the job alone is the last choice, and none where it may go with a lost node (M31).
    """
    common = [path for path in nodes[0]["scratch"] if all(path in node["scratch"] for node in nodes)]
    shared, local = [], []
    for path in common:
        said = [node["scratch"][path] for node in nodes]
        if any(each["foreign_seen"] for each in said):
            shared.append(path)
        elif all(each["own_seen"] and each.get("exclusive") and each.get("rename") for each in said):
            local.append(path)
    wiped = {path for path in local if any(node["scratch"][path].get("wiped") for node in nodes)}
    kept = [path for path in local if path not in wiped and (not job_id or job_id not in path)]
    lasting = [path for path in kept if not any(node["scratch"][path].get("private") for node in nodes)]
    on_disk = [path for path in lasting if nodes[0]["scratch"][path]["file_system"] not in MEMORY_FILE_SYSTEMS]
    chosen = next(iter(on_disk or lasting or kept), "none")
    proven_local = local if len(nodes) > 1 and all(node["met"] for node in nodes) else None
    known: dict[str, Value] = {
        "probe.scratch_local": tuple(local) if proven_local is not None else None,
        "probe.scratch_shared": tuple(shared),
        "probe.scratch_wiped": tuple(path for path in local if path in wiped),
        "probe.scratch_of_job": tuple(path for path in local if path not in lasting),
        "probe.scratch": chosen if proven_local is not None else None,
    }
    if proven_local and chosen != "none":
        folders = [node["scratch"][chosen] for node in nodes]
        known["probe.scratch_free_bytes"] = min(each["free_bytes"] for each in folders)
        known["probe.scratch_file_system"] = folders[0]["file_system"]
        known["probe.scratch_fsync_s"] = max(each["fsync_s"] for each in folders)
    return known


def _of_witnesses(nodes: list[Record]) -> dict[str, Value]:
    """Which witnesses would speak for a healthy node; None where none was asked."""
    known: dict[str, Value] = {}
    for name in ("ping", "ssh", "srun", "tcp"):
        said = [node["witnesses"][name] for node in nodes if name in node.get("witnesses", {})]
        known[f"probe.{name}_works"] = all(outcome == "ok" for outcome, _, _ in said) if said else None
        known[f"probe.{name}_words"] = "; ".join(sorted({words for outcome, words, _ in said if outcome != "ok"}))[:200]
        known[f"probe.{name}_s"] = max((float(took) for outcome, _, took in said if outcome == "ok"), default=None)
    return known


def _names(nodes: Iterable[Record]) -> tuple[str, ...]:
    return tuple(node["node"] for node in nodes)


def _texts(value: Value) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else ()


def _flag(value: Value) -> bool | None:
    return value if isinstance(value, bool) else None
