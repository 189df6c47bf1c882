"""What a person gets to see of a run: told from its journal alone; nobody is asked and nothing is changed."""
