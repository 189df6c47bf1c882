"""The library in a training program: what `ftslurm.training.attach` is made of."""
