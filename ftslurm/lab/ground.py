"""A lab as the ground of a campaign: runs are submitted there by its ordinary user, one after the other.

Every run has a run root of its own, so that no node ledger remembers from one to the next the nodes that were broken on
purpose. The lab is brought up where it is not there, and stays up: whoever wants it gone says `ftslurm lab down`.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm.config import load
from ftslurm.errors import ServiceUnavailable
from ftslurm.faults.fault import Need
from ftslurm.insight.text import visible
from ftslurm.lab.assembly import Display
from ftslurm.lab.cluster import Cluster
from ftslurm.lab.means import LabMeans
from ftslurm.paths import RunPaths

if TYPE_CHECKING:
    from ftslurm.faults.means import Means

SUBMIT_S = 60.0
MEND_S = 240.0


@dataclass(frozen=True, slots=True)
class LabGround:
    """A lab of so many nodes, and the configuration that is run there.

    `consent`: see `OwnMeans`. `ill_storage`: the runs lie on storage that can be made ill.
    """

    name: str
    nodes: int
    config: Path
    consent: bool
    report: Callable[[str], None]
    ill_storage: bool = False

    @property
    def begins(self) -> bool:
        """The runs are the campaign's own."""
        return True

    @property
    def offers(self) -> frozenset[Need]:
        """All but a GPU; whether the program is willing shows when it is asked."""
        return frozenset({Need.ROOT, Need.LAB, Need.PROGRAM})

    @property
    def least(self) -> int:
        """As the configuration says."""
        return load(self.config).recovery.min_nodes

    def begin(self) -> RunPaths:
        """Submit the configuration.

        Raises:
            ServiceUnavailable: the lab or its storage does not come up, or the run is refused.
        """
        lab = self._lab()
        folder = lab.shared / f"campaign-{secrets.token_hex(4)}"
        folder.mkdir(mode=0o700)
        file = folder / "config.yaml"
        file.write_bytes(self.config.read_bytes())
        for path in (folder, file):
            os.chown(path, lab.uid, lab.uid)
        home = _home_on_ill_storage(lab, folder.name) if self.ill_storage else folder
        argv = ["ftslurm", "submit", str(file), "--json", "--run-root", str(home / "runs")]
        done = lab.login(argv, user=lab.user, timeout=SUBMIT_S)
        if done.returncode != 0:
            raise ServiceUnavailable(f"the run is refused: {visible(done.stderr.strip()[-500:])}")
        return RunPaths(lab.storage.from_outside(Path(json.loads(done.stdout)["run_dir"])))

    def means(self, paths: RunPaths) -> Means:
        """Everything that a lab can break."""
        return LabMeans.of_lab(self._lab(), paths, consent=self.consent)

    def mend(self) -> None:
        """Make every node well, and end what is left of the runs."""
        self._lab().restore(MEND_S)

    def _lab(self) -> Cluster:
        lab = Cluster(self.name, display=Display(self.report))
        if not lab.status()["up"]:
            lab.up(self.nodes)
        return lab


def _home_on_ill_storage(lab: Cluster, name: str) -> Path:
    """A folder of the user's own there, as the lab sees it.

    Raises:
        ServiceUnavailable: it cannot be had.
    """
    lab.storage.attach()
    home = lab.storage.path / name
    made = lab.login(["mkdir", "--mode=700", str(home)], user=lab.user, timeout=SUBMIT_S)
    if made.returncode != 0:
        raise ServiceUnavailable(f"no folder on the lab's ill storage: {visible(made.stderr.strip()[-500:])}")
    return home
