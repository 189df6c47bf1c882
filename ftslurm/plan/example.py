"""The scenario that `ftslurm simulate --example` prints; docs/examples/simulate/scenario.yaml is the same."""

EXAMPLE = """\
# What would a training on 2,048 nodes lose, and what do spares and intervals change?
# ftslurm simulate scenario.yaml --picture ettr.svg

name: sixteen-thousand-gpus
seed: 1
replications: 20              # the more, the narrower the intervals
nodes: 2048                   # nodes that train; recovery.spares are held beside them
gpus_per_node: 8
fleet: 2304                   # nodes that Slurm can choose among
span: 30d                     # wall time that is simulated
restart: 5m                   # from a plan to the first new step
resume_after: 8h              # a run that gives up stands still until somebody resumes it
ledger: true                  # leave nodes out that fail more than chance allows

faults:
  kind: exponential           # or weibull, lemons, clustered, trace (with trace: FILE)
  rate: typical               # good 2.34, typical 3.79, bad 6.50, or failures in 1,000 node-days; or mtbf: 3h
  node_share: 0.78            # of the failures that cost their node; the others need a relaunch only

detection:
  delay: 6s                   # from a failure until it is known
  diagnosis: 2s               # from there to the plan
  wrong_exclusions: 0.01      # healthy nodes that are given up, in 1,000 node-days
  wrong_diagnoses: 0.02       # share of the failures with the wrong verdict on the node

repair: {median: 20h, mean: 5d, repairers: 0}       # repairers: nodes repaired at a time; 0: all
requeue: {delay: 129s, wait: 10m, wait_known: true}

checkpoint:
  every: daly                 # or young, exact, none, or a duration such as 30m
  stall: 10s                  # training stands still for one save
  size: 6T
  scratch: 2G/s               # of one node
  partner: 1G/s               # of the copy that another node keeps; left out: none
  shared: 50G/s               # of shared storage, for the whole job
  contention: 0.3             # share of it that others use

recovery:                     # the section of train.yaml: what is tried here can be used there
  spares: 16
  min_nodes: 1024
  max_attempts: 100000
  no_progress_limit: 10

sweep:                        # every combination is simulated
  faults.rate: [2.34, 3.79, 6.5]
  recovery.spares: [0, 16, 64]
"""
