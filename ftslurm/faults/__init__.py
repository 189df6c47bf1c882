"""Breaking runs on purpose: what can be done, doing and undoing it, and the truth about what was done.

Start reading at `ftslurm.faults.catalogue`.
"""
