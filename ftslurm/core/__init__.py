"""The decisions, pure: events in, new state and actions out. No I/O, no clock, no randomness."""
