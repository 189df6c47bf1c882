"""`ftslurm checkpoint export`: a checkpoint for programs that know no ftslurm."""

from __future__ import annotations

from pathlib import Path

import click

from ftslurm.cli.progress import waiting
from ftslurm.cli.storearg import json_option, print_json, store_argument, store_of
from ftslurm.quantities import short_size

EXAMPLES = """\b
Examples:
  ftslurm checkpoint export 4711 --safetensors model.safetensors         # the newest
  ftslurm checkpoint export 4711 best --safetensors model.safetensors
  ftslurm checkpoint export 4711 5000 --safetensors all.safetensors --prefix ''
\b
Only checkpoints of the library layout; those of the files layout are files of your program already.
"""


@click.command(epilog=EXAMPLES)
@store_argument
@click.argument("of", default="latest")
@click.option(
    "--safetensors", "target", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write."
)
@click.option("--prefix", default="model.", show_default=True, help="Tensors to write, by the beginning of their name.")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@json_option
def export(run_or_job: str, of: str, *, target: Path, prefix: str, force: bool, as_json: bool) -> None:
    """Write the model of the checkpoint OF (latest, best, a tag, a step or a generation) as a safetensors file.

    Every byte is verified on the way; the file appears whole or not at all.
    """
    from ftslurm.checkpoint.difference import is_of_library
    from ftslurm.checkpoint.inplace import source_of
    from ftslurm.checkpoint.layout import StorePaths
    from ftslurm.checkpoint.versions import find
    from ftslurm.errors import UsageError

    root = store_of(run_or_job).root
    version = find(root, of)
    folder = StorePaths(root).generation(version.generation)
    if not is_of_library(root, version):
        files = Path(*source_of(folder))
        raise UsageError(
            f"{version.generation} is of the files layout", hint=f"its files, as your program wrote them: {files}"
        )
    if target.exists() and not force:
        raise UsageError(f"{target} exists", hint="--force replaces it")
    try:
        from ftslurm.checkpoint.export import export as write
    except ImportError as error:
        raise UsageError(f"export needs {error.name}", hint="pip install 'ftslurm[torch]'") from error
    with waiting(f"writing {target.name}", quiet=as_json, unit=short_size) as wait:
        done = write(folder, target, prefix=prefix, tell=wait)
    if as_json:
        told = {"file": str(target), "tensors": done.tensors, "size_bytes": done.size_bytes}
        print_json({"store": str(root), "generation": version.generation, "digest": version.digest, **told})
    else:
        click.echo(f"{target}: {done.tensors} tensors of {version.generation}, {short_size(done.size_bytes)}")
