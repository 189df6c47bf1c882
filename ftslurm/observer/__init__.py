"""The observer: a child of the supervisor that gives metrics to Prometheus and tells people what happens.

It decides nothing and nobody waits for it (`ftslurm.runtime.observing`).
"""
