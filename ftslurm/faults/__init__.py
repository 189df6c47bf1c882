"""Faults on purpose: what there is to break, breaking it and mending it, campaigns of many faults, and their score."""
