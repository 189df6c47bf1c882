"""What a training script imports: it says how far the training is, so that a hang is noticed and understood.

    from ftslurm.training import beat, phase

    for step in range(start, steps):
        loss = train_step()
        beat(step, loss=loss)              # microseconds; the loss is a number, not a tensor on a GPU
        if step % 1000 == 0:
            with phase("save"):            # a save, load or evaluation has a patience of its own
                save()

Outside of ftslurm both do nothing. They never raise and never block. Importing this needs neither numpy nor torch.
"""

from __future__ import annotations

from ftslurm.beats import beat, phase

__all__ = ["beat", "phase"]
