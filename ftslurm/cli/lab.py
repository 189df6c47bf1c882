"""`ftslurm lab`: a real multi-node Slurm on this machine, and the faults that its nodes can have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ftslurm.cli.progress import waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from ftslurm.cli.progress import Waiting
    from ftslurm.lab.cluster import Cluster

GROUP_EXAMPLES = """\b
Examples:
  ftslurm lab up -n 4                                 # a few seconds; needs root
  ftslurm lab exec login --user ftlab -- sbatch --version
  ftslurm lab cut n2                                  # n2 falls silent, as with a pulled cable
  ftslurm lab heal n2
  ftslurm lab down
"""
UP_EXAMPLES = """\b
Examples:
  ftslurm lab up                                      # 4 nodes, n1 to n4
  ftslurm lab up -n 8 --name big
  export SLURM_CONF=$(ftslurm lab status --json | jq -r .slurm_conf)
"""
EXEC_EXAMPLES = """\b
Examples:
  ftslurm lab exec n1 -- ping -c1 n2
  ftslurm lab exec login --user ftlab -- bash         # the login host, interactively
"""
FAULT_EXAMPLES = """\b
Examples:
  ftslurm lab {verb} n2
"""

name_option = click.option(
    "--name", default="dev", envvar="FTSLURM_LAB", show_default=True, help="Which lab; also FTSLURM_LAB."
)
node_argument = click.argument("node")


@click.group(epilog=GROUP_EXAMPLES)
def lab() -> None:
    """A real Slurm cluster on this machine, each node in namespaces of its own, whose nodes can fail.

    The login host is called "login", the nodes n1, n2 and so on. FTSLURM_LAB_DIR is the folder of all labs.
    """


def _cluster(name: str, wait: Waiting | None = None) -> Cluster:
    from ftslurm.lab.assembly import Display, uncounted
    from ftslurm.lab.cluster import Cluster
    from ftslurm.lab.prerequisites import require_root

    require_root()
    return Cluster(name, display=Display(lambda line: click.echo(line, err=True), wait or uncounted))


@lab.command(epilog=UP_EXAMPLES)
@click.option("-n", "--nodes", default=4, show_default=True, help="How many compute nodes.")
@click.option("--prefix", default="n", show_default=True, help="What node names begin with.")
@name_option
def up(nodes: int, prefix: str, name: str) -> None:
    """Bring the lab up; returns when every node is idle and srun has run on all of them."""
    from ftslurm.lab.layout import LabSpec

    with waiting(f"starting lab {name}") as wait:
        cluster = _cluster(name, wait)
        cluster.up(nodes, shape=LabSpec(prefix=prefix))
    click.echo(f"lab {name} is up: {', '.join(cluster.nodes)}; export SLURM_CONF={cluster.slurm_conf}", err=True)


@lab.command(epilog=FAULT_EXAMPLES.replace("{verb} n2", "down --purge"))
@click.option("--purge", is_flag=True, help="Also delete its shared folder and logs.")
@name_option
def down(name: str, *, purge: bool) -> None:
    """Take the lab down; nothing of it is left running."""
    with waiting(f"taking lab {name} down") as wait:
        _cluster(name, wait).down(purge=purge)
    click.echo(f"lab {name} is down", err=True)


@lab.command(epilog=FAULT_EXAMPLES.replace("{verb} n2", "status --json | jq .up"))
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@name_option
def status(name: str, *, as_json: bool) -> int:
    """Show every node: power, link, Slurm's word. Exit code 69 when the lab is not up."""
    import json

    from ftslurm.errors import ServiceUnavailable

    state = _cluster(name).status()
    click.echo(json.dumps(state, indent=2) if as_json else "\n".join(_table(state)))
    return 0 if state["up"] else ServiceUnavailable.exit_code


def _table(state: dict[str, Any]) -> list[str]:
    """Columns for people."""
    if not state["up"]:
        return [f"lab {state['name']} is not up"]
    columns = ("name", "address", "power", "link", "slurm")
    rows = [columns, *(tuple(str(node[column]) for column in columns) for node in state["nodes"])]
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    return [
        f"lab {state['name']}: SLURM_CONF={state['slurm_conf']} shared={state['shared']} user={state['user']}",
        *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
    ]


@lab.command(name="exec", epilog=EXEC_EXAMPLES, context_settings={"ignore_unknown_options": True})
@click.argument("node")
@click.option("--user", default="root", show_default=True, help='"root" or the lab\'s ordinary user.')
@name_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(node: str, user: str, name: str, command: tuple[str, ...]) -> None:
    """Run COMMAND on NODE (or on "login") in all its namespaces; its exit code is this command's."""
    import os

    from ftslurm.lab.machine import Who

    argv = _cluster(name).command(node, command, Who(user=user))
    os.execvp(argv[0], argv)  # noqa: S606  the terminal, the signals and the exit code are the command's


def _fault(verb: str, text: str) -> Callable[[str, str], None]:
    """One command that does one thing to one node."""

    @lab.command(name=verb, help=text, epilog=FAULT_EXAMPLES.format(verb=verb))
    @node_argument
    @name_option
    def command(node: str, name: str) -> None:
        with waiting(f"{verb} {node}"):
            getattr(_cluster(name), verb)(node)

    return command


cut = _fault("cut", "Pull NODE's network cable: silence in both directions.")
heal = _fault("heal", "Put NODE's network cable back.")
kill = _fault("kill", "Cut NODE's power: everything on it ends at once.")
start = _fault("start", "Switch a killed NODE on again: empty /tmp, the old /scratch.")
freeze = _fault(
    "freeze", "Stop every process of NODE (or the daemon slurmctld, slurmdbd); its kernel still answers ping."
)
thaw = _fault("thaw", "Let a frozen NODE go on.")


@lab.command(epilog=FAULT_EXAMPLES.replace("{verb} n2", "slow n2 --delay 50 --loss 1"))
@node_argument
@click.option("--delay", default=0.0, help="Milliseconds for every packet to NODE.")
@click.option("--jitter", default=0.0, help="Milliseconds by which the delay varies.")
@click.option("--loss", default=0.0, help="Percent of the packets to NODE that are lost.")
@name_option
def slow(node: str, delay: float, jitter: float, loss: float, name: str) -> None:
    """Delay and lose packets on their way to NODE; without options the link is good again."""
    _cluster(name).slow(node, delay_ms=delay, jitter_ms=jitter, loss_percent=loss)


@lab.group(epilog=FAULT_EXAMPLES.replace("{verb} n2", "storage attach\n  ftslurm lab storage freeze"))
def storage() -> None:
    """Shared storage that can be frozen, filled or broken, at <lab>/slowshared on every machine."""


def _storage_command(verb: str, text: str) -> None:
    """One command that does one thing to the storage."""

    @storage.command(name=verb, help=text)
    @name_option
    def command(name: str) -> None:
        from ftslurm.lab.passthrough import Fault

        faults = {
            "hang": Fault.HANG,
            "quota": Fault.OVER_QUOTA,
            "full": Fault.FULL,
            "readonly": Fault.READ_ONLY,
            "broken": Fault.BROKEN,
        }
        device = _cluster(name).storage
        if verb in faults:
            device.fail(faults[verb])
        else:
            getattr(device, verb)()


_storage_command("attach", "Mount it on every machine.")
_storage_command("freeze", "Let every operation on it block; who waits can be killed.")
_storage_command("hang", "Let every operation on it block, and who waits cannot be killed (state D).")
_storage_command("thaw", "Let blocked operations go on.")
_storage_command("quota", "Let everything that needs room fail with EDQUOT.")
_storage_command("full", "Let everything that needs room fail with ENOSPC.")
_storage_command("readonly", "Let every change fail with EROFS.")
_storage_command("broken", "Let everything fail with EIO.")
_storage_command("restore", "Make it well again.")
_storage_command("detach", "Unmount it; whoever waits in it gets an error.")
