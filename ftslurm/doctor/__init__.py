"""What a site's Slurm, this host and the compute nodes mean for a run: facts, rules, a probe job, a site profile."""
