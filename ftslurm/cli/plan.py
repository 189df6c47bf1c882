"""`ftslurm plan`: what to expect of a run before it is submitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

EXAMPLES = """\b
Examples:
  ftslurm plan train.yaml                  # the file that `ftslurm submit` takes; its section plan: says what you know
"""


@click.command(epilog=EXAMPLES)
@click.argument("config", type=click.Path(path_type=Path))
def forecast(config: Path) -> None:
    """Say what to expect of the run that CONFIG describes."""
    from ftslurm.config import load

    load(config)


class FileOrCommand(click.Group):
    """A group whose first word is one of its commands, else a file: `plan CONFIG` and `plan fit TRACE`."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # noqa: ANN401 - click's own
    ) -> click.Context:
        """Let `forecast` have all words under the group's own name, where the first is none of the commands."""
        if args and args[0] in self.commands:
            return super().make_context(info_name, args, parent, **extra)
        return forecast.make_context(info_name, args, parent, **extra)


@click.group(cls=FileOrCommand)
def plan() -> None:
    """Say what to expect of a run before it is submitted."""
