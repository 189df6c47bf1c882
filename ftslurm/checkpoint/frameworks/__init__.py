"""The checkpoints that frameworks write by themselves: one module for each layout, `table` names them all."""
