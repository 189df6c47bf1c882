"""What is worth knowing before a run, and about runs that were never made: forecasts, simulation, fitted models."""
