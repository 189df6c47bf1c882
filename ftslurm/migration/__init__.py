"""From the older JSON of `fault_tolerance`, `checkpoint` and `state_persistence` to a configuration of today."""
