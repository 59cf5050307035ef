"""In a Slurm job the process belongs to a launcher, of which MPI must not know."""

import os
import subprocess
import sys

SCRIPT = """
import os, sys
seen = []
class Spy:
    def find_spec(name, path=None, target=None):
        if name == "mpi4py.MPI":
            seen.append([key for key in os.environ if key.startswith(("SLURM_", "PMI"))])
sys.meta_path.insert(0, Spy)
import crumple.fem.compression
assert seen == [[]], seen
assert os.environ["SLURM_JOB_ID"] == "17" and os.environ["PMI_RANK"] == "0"
"""


def test_mpi_starts_alone_and_the_environment_stays():
    environment = os.environ | {"SLURM_JOB_ID": "17", "PMI_RANK": "0"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
