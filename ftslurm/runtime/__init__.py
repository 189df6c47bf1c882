"""The processes of a run, and what they do to the world."""
