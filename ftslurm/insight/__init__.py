"""What a person gets to see of a run: told from its journal alone, without asking anybody and without changing anything."""
