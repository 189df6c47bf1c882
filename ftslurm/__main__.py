"""Lets `python -m ftslurm` do what the console script does."""

from __future__ import annotations

from ftslurm.cli import main

if __name__ == "__main__":
    main()
