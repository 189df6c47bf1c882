"""`ftslurm completion SHELL`: the script that makes the Tab key work; it asks ftslurm only, never slurmctld."""

from __future__ import annotations

import click

EXAMPLES = """\b
Examples:
  eval "$(ftslurm completion bash)"                   # this shell only
  ftslurm completion bash > ~/.local/share/bash-completion/completions/ftslurm
  ftslurm completion zsh > "${fpath[1]}/_ftslurm"
  ftslurm completion fish > ~/.config/fish/completions/ftslurm.fish
"""


@click.command(epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL."""
    from click.shell_completion import get_completion_class

    from ftslurm.cli import cli
    from ftslurm.errors import InternalError

    script = get_completion_class(shell)
    if script is None:
        raise InternalError(f"click knows no completion for {shell}")
    click.echo(script(cli, {}, "ftslurm", "_FTSLURM_COMPLETE").source())
