"""`ftslurm demo`: a small training on the user's own cluster loses a rank and goes on; nothing of it is left."""
