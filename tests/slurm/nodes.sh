#!/usr/bin/env bash
# Training and generation as two processes on two nodes of a real Slurm on this machine, against one
# process (cluster.sh says what it needs):
#
#   bash tests/slurm/nodes.sh
#
# The trained network must be the same up to rounding, and so must the candidates of one network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tests/slurm/cluster.sh

run=results/nodes
reference=results/nodes-reference
candidates=$run/generated.zarr
weights=model/model.safetensors
PATH=$PWD/.venv/bin:$PATH
export OMP_NUM_THREADS=1
one=(--configfile workflow/presets/toy.yaml --config run=nodes)
two=(--profile slurm --workflow-profile tests/slurm/nodes "${one[@]}"
  --set-threads train=1 generate=1)

rm -rf $run $reference
snakemake -c1 "${one[@]}" --quiet -- $candidates
cp -a $run $reference

start_cluster
# Another process count is no reason to train again, so what one process has made goes first.
rm -r $run/model
snakemake "${two[@]}" -- $run/$weights
python tests/slurm/compare.py close $reference $run $weights

rm -r $run/{model,generated.zarr}
cp -a $reference/model $run
snakemake "${two[@]}" -- $candidates
python tests/slurm/compare.py close $reference $run generated.zarr
echo "tests/slurm/nodes.sh: passed"
