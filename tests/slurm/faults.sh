#!/usr/bin/env bash
# Faults on a real Slurm on this machine, and what the next run makes of them (cluster.sh says what
# it needs):
#
#   bash tests/slurm/faults.sh [scancel node master worker disk kill requeue limit two ...]
#
# After each fault the run is made complete. Then data set and model must equal those of an
# undisturbed run in every array, finished designs and steps must not have been done again, nothing
# may be left over, and no job may be in the queue. One line per fault says so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tests/slurm/cluster.sh

run=results/faults
reference=results/faults-reference
PATH=$PWD/.venv/bin:$PATH
export OMP_NUM_THREADS=1
workflow=(--configfile workflow/presets/toy.yaml tests/slurm/faults.yaml)
profile=(--profile slurm "${workflow[@]}" --set-threads train=1)
dataset=$run/data/dataset.json
model=$run/model/model.safetensors

# --- steps of a fault ------------------------------------------------------------------------------

# submit TARGET ARGS...: Snakemake in the background; its pid is $master, its output in $output.
submit() {
  snakemake "${profile[@]}" "${@:2}" -- "$1" >>"$output" 2>&1 &
  master=$!
}

# finish: wait for the Snakemake in the background, and return its status.
finish() {
  local pid=$master
  master=
  wait "$pid"
}

# await SECONDS COMMAND...: wait until a command succeeds, but not longer than Snakemake lives.
await() {
  local end=$((SECONDS + $1))
  until "${@:2}" 2>/dev/null; do
    [ $SECONDS -lt $end ] || { echo "not within $1 s: ${*:2}" >&2; return 1; }
    [ -z "$master" ] || kill -0 "$master" || return 1
    sleep 0.1
  done
}

# Fields of a lock: who works on a shard or a model.
owner() { sed -n "s/.*\"$2\": \"\?\([0-9]*\).*/\1/p" "$1"; }

simulated() { [ "$(find $run/data/simulations/0000.partial -name '[0-9]*.npz' | wc -l)" -ge "$1" ]; }
trained() { grep -q "train: $1/" $run/logs/train.log; }
shard_lock=$run/data/simulations/.0000.lock
model_lock=$run/.model.lock

note() { python tests/slurm/compare.py note $run "$state/notes.json"; }
queue_is_empty() { [ -z "$(squeue -h)" ]; }

# Begin without data, or with the data of the undisturbed run.
begin() {
  rm -rf $run
  [ "$1" = nothing ] || { mkdir $run && cp -a $reference/data $run/data; }
}

# again TARGET: run again; true if there was nothing left to do.
again() {
  snakemake "${profile[@]}" -- "$1" >"$state/again.log" 2>&1 || true
  cat "$state/again.log" >>"$output"
  grep -q "Nothing to be done" "$state/again.log"
}

# complete TARGET: the next run, if not the one hit, makes all that is missing; then compare.
complete() {
  again "$1" || again "$1" || { echo "the next run did not finish"; return 1; }
  await 60 queue_is_empty
  local whole=$state/reference
  rm -rf "$whole" && mkdir "$whole" && cp -a $reference/data "$whole/data"
  [ "$1" = $dataset ] || cp -a $reference/model "$whole/model"
  python tests/slurm/compare.py check "$whole" $run "$state/notes.json"
}

# --- faults ----------------------------------------------------------------------------------------

fault_scancel() { # a running job is cancelled by somebody
  begin nothing
  submit $dataset
  await 300 simulated 2
  scancel "$(owner $shard_lock job)"
  note
  finish
  complete $dataset
}

fault_worker() { # the system kills a process, as when memory runs out
  begin nothing
  submit $dataset
  await 300 simulated 2
  kill -9 "$(owner $shard_lock pid)"
  note
  finish
  complete $dataset
}

# kill_tree PID: with SIGKILL, children first.
kill_tree() {
  local child
  for child in $(pgrep -P "$1"); do kill_tree "$child"; done
  kill -9 "$1" 2>/dev/null || true
}

fault_node() { # a node dies: its daemons, and what they have started
  local job node pid
  begin nothing
  submit $dataset
  await 300 simulated 2
  node=$(squeue -h -j "$(owner $shard_lock job)" -o %N)
  kill_tree "${daemons[$node]}"
  for job in $(squeue -h -w "$node" -o %A); do
    for pid in $(pgrep -f "^slurmstepd: \[$job\."); do kill_tree "$pid"; done
  done
  note
  finish
  complete $dataset
}

fault_master() { # Snakemake dies, and its jobs go on; it is started again when they have ended
  begin nothing
  submit $dataset
  await 300 simulated 2
  kill -9 "$master"
  finish 2>/dev/null || true
  await 600 queue_is_empty
  note
  snakemake "${workflow[@]}" --unlock >>"$output" 2>&1
  complete $dataset
}

fault_disk() { # no space is left while a shard is simulated
  begin nothing
  mkdir -p $run/data
  mount -t tmpfs -o size=64m tmpfs $run/data
  submit $dataset
  await 300 simulated 2
  cat /dev/zero >$run/data/filler 2>/dev/null || true
  finish && return 1
  grep -rh "No space left on device" $run/logs | sort -u
  rm $run/data/filler
  note
  complete $dataset
}

fault_kill() { # the training dies at a random step
  begin data
  submit $model
  await 300 trained $((RANDOM % 12 + 4))
  kill -9 "$(owner $model_lock pid)"
  note
  finish
  complete $model
}

fault_requeue() { # Slurm takes the node away from a training, and starts it again later
  begin data
  submit $model
  await 300 trained $((RANDOM % 12 + 4))
  scontrol requeue "$(owner $model_lock job)"
  note
  finish
  complete $model
}

fault_limit() { # Slurm ends a training at its time limit
  begin data
  submit $model --config 'training={checkpoint_minutes: 60}' --set-resources 'train:runtime=attempt ** 6'
  await 300 trained $((RANDOM % 12 + 4))
  kill -STOP "$(owner $model_lock pid)" # so that it lasts a minute; Slurm wakes it up to end it
  await 150 grep "stopped by SIGTERM" $run/logs/train.log
  note
  finish
  complete $model
}

fault_two() { # a second Snakemake is started beside the first
  begin nothing
  submit $dataset
  await 300 simulated 1
  note
  snakemake "${profile[@]}" -- $dataset >"$state/second.log" 2>&1 && return 1
  grep "Directory cannot be locked" "$state/second.log"
  finish
  complete $dataset
}

# clean_up: after a fault, whatever became of it.
clean_up() {
  scancel --quiet -u root
  [ -z "$master" ] || { kill "$master" && finish; } || true
  await 60 queue_is_empty
  ! mountpoint -q $run/data || umount $run/data
}

# --- all of them -----------------------------------------------------------------------------------

faults=("$@")
[ $# -gt 0 ] || faults=(scancel node master worker disk kill requeue limit two)

if [ ! -e $reference/model ]; then
  rm -rf $run $reference
  snakemake -c1 "${workflow[@]}" --quiet -- $model
  mv $run $reference
fi
start_cluster
echo "$(sinfo --version), $(date -u +%F)"
failed=0
for fault in "${faults[@]}"; do
  output=$state/$fault.log
  begun=$SECONDS
  # In a shell of its own, and not in a condition, where set -e would be off.
  set +e
  (set -e; trap clean_up EXIT; "fault_$fault") >"$state/$fault.said" 2>&1
  status=$?
  set -e
  verdict=passed
  [ $status -eq 0 ] || { verdict=failed failed=1; }
  for node in n1 n2; do kill -0 "${daemons[$node]}" 2>/dev/null || start_node $node; done
  wait_for_nodes
  printf '%-8s %s %4d s  %s\n' "$fault" $verdict $((SECONDS - begun)) "$(paste -sd' ' "$state/$fault.said")"
done
exit $failed
