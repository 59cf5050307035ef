"""Learning rate and decay of the average as functions of the step or of the samples seen.

The rate rises linearly, stays constant, and falls linearly to zero over the last part of the steps.
All steps before the fall are those of a longer training too, which is what makes it possible to go
on from there (Hägele et al. 2024, arXiv:2405.18392).
"""

from __future__ import annotations

from crumple.config import Optimisation

EMA_RAMP = 0.05  # half-life of the average, as part of the samples seen so far


def decay_start(settings: Optimisation) -> int:
    """Return the number of the step from which on the rate falls."""
    return settings.steps - round(settings.decay * settings.steps)


def learning_rate(step: int, settings: Optimisation) -> float:
    """Return the rate of step ``step``, which counts from 0."""
    start = decay_start(settings)
    rise = min(1.0, (step + 1) / (settings.warmup + 1))
    fall = 1.0 if step < start else (settings.steps - step) / (settings.steps - start)
    return settings.learning_rate * rise * fall


def ema_decay(samples_seen: int, batch: int) -> float:
    """Return the weight of the old average: a half-life that grows with the samples seen.

    With a half-life of a fixed part of the run so far the average forgets the start whatever the
    length of the run (Karras et al. 2022, their ramp-up; 2024, arXiv:2312.02696).
    """
    return 0.5 ** (batch / max(EMA_RAMP * samples_seen, 1e-8))
