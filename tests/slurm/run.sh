#!/usr/bin/env bash
# The toy chain through `snakemake --profile slurm` on a real Slurm on this machine, started here
# and stopped again (cluster.sh says what it needs):
#
#   bash tests/slurm/run.sh [more arguments for snakemake]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tests/slurm/cluster.sh

start_cluster
sinfo

PATH=$PWD/.venv/bin:$PATH
# The nodes have two cores; these rules ask for eight.
toy=(--profile slurm --configfile workflow/presets/toy.yaml
  --set-threads train=2 train_designer=2 train_response=2 generate=2)
rm -rf results/toy
snakemake "${toy[@]}" "$@" &
master=$!
wait "$master"
master=

# Nothing is left to do, and every job that was submitted has ended.
snakemake "${toy[@]}" "$@" 2>&1 | grep "Nothing to be done"
[ -z "$(squeue -h)" ] || die "jobs are left in the queue"
echo "tests/slurm/run.sh: passed"
