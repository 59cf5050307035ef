"""Space-time diffusion model: data, network, training, sampling; the only part that loads torch."""

import os

# Read when torch loads OpenMP. By default its threads spin while they wait for each other, which on
# cores that are shared with other jobs makes a training step take twice as long or more.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
