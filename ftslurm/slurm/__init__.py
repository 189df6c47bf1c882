"""The edge to Slurm: its commands, its texts, its environment variables, its node lists, its batch scripts."""
