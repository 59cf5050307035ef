import os

# A simulation is one process. With these variables in the environment of a Slurm job, Open MPI
# takes itself for one of many ranks and aborts where it was not built for that Slurm.
for _name in [name for name in os.environ if name.startswith(("SLURM_", "PMI_", "PMIX_"))]:
    del os.environ[_name]
