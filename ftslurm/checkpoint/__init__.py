"""Checkpoints that a program writes as files: watched, digested, drained, committed, verified, handed back."""
