"""The lab: a real multi-node Slurm cluster on one Linux machine, whose nodes can be cut, killed, frozen and slowed."""
