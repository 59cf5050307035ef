#!/usr/bin/env bash
# The toy chain, and a search with its models, through `snakemake --profile slurm` on a real Slurm on
# this machine, started here and stopped again (cluster.sh says what it needs):
#
#   bash tests/slurm/run.sh [more arguments for snakemake]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tests/slurm/cluster.sh

start_cluster
sinfo

PATH=$PWD/.venv/bin:$PATH
# The nodes have two cores; these rules ask for more.
toy=(--profile slurm --configfile workflow/presets/toy.yaml
  --set-threads train=2 train_designer=2 train_response=2 generate=2 winner=2)
rm -rf results/toy
snakemake "${toy[@]}" "$@" &
master=$!
wait "$master"
master=

# The search is the same as that of `crumple design` on this machine.
sed -n "/^target/p;/^a_/p" workflow/targets/paper.csv >results/toy/goal.csv
search=(--config "search={goals: results/toy/goal.csv}" -- search)
snakemake "${toy[@]}" "${search[@]}" &
master=$!
wait "$master"
master=
rm -rf results/toy-design
crumple design results/toy/goal.csv --config workflow/presets/toy.yaml --budget 4 \
  --library results/toy/data/library.npz --response results/toy/response \
  --out results/toy-design
python tests/slurm/compare.py close results/toy-design results/toy/search \
  a_stiff_hardening/rounds/00{0,1}/results.npz

# Nothing is left to do, and every job that was submitted has ended.
snakemake "${toy[@]}" "$@" 2>&1 | grep "Nothing to be done"
[ -z "$(squeue -h)" ] || die "jobs are left in the queue"
echo "tests/slurm/run.sh: passed"
