#!/usr/bin/env bash
# The toy chain through `snakemake --profile slurm` on a real Slurm on this machine, started here
# and stopped again. On demand, as root, on a machine without a Slurm of its own:
#
#   apt-get install --no-install-recommends slurm-wlm munge
#   bash tests/slurm/run.sh [more arguments for snakemake]
#
# Two virtual nodes of two cores each on this host. /etc/slurm/slurm.conf is written, because srun
# inside a job looks nowhere else, and removed at the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

die() {
  printf 'tests/slurm/run.sh: error: %s\n' "$*" >&2
  exit 1
}

[ "$(id -u)" -eq 0 ] || die "starting Slurm and munge needs root"
for tool in slurmctld slurmd munged sinfo; do
  command -v "$tool" >/dev/null ||
    die "$tool is missing: apt-get install --no-install-recommends slurm-wlm munge"
done
[ -x .venv/bin/snakemake ] || die "the environments are missing: bash setup.sh"
[ ! -e /etc/slurm/slurm.conf ] || die "/etc/slurm/slurm.conf exists: this machine has its own Slurm"

state=$(mktemp -d)
pids=()
master=

# start PROGRAM ARGS...: a daemon in the foreground of a background job, so that its pid is known.
start() {
  "$@" >>"$state/daemons.log" 2>&1 &
  pids+=($!)
}

stop() {
  local status=$?
  trap - EXIT INT TERM
  # Told to stop, Snakemake submits nothing more and waits for its jobs, which are then cancelled.
  [ -z "$master" ] || kill "$master" 2>/dev/null || true
  local jobs
  jobs=$(squeue -h -o %A 2>/dev/null || true)
  [ -z "$jobs" ] || scancel $jobs || true
  [ -z "$master" ] || wait "$master" || true
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    kill "${pids[i]}" 2>/dev/null || true
    wait "${pids[i]}" 2>/dev/null || true
  done
  rm -f /etc/slurm/slurm.conf /etc/slurm/cgroup.conf
  if [ $status -eq 0 ]; then rm -rf "$state"; else echo "logs are kept in $state" >&2; fi
  exit $status
}
trap stop EXIT INT TERM

mkdir -p "$state"/{state,spool/n1,spool/n2} /etc/slurm
install -d -o munge -m 755 /run/munge
[ -e /etc/munge/munge.key ] || install -o munge -m 400 <(head -c 1024 /dev/urandom) /etc/munge/munge.key
host=$(hostname)
echo "CgroupPlugin=cgroup/v1" >/etc/slurm/cgroup.conf
cat >/etc/slurm/slurm.conf <<CONF
ClusterName=toy
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$state/state
SlurmdSpoolDir=$state/spool/%n
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd-%n.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
InactiveLimit=0
KillWait=5
MinJobAge=300
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=2 RealMemory=8000 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=2 RealMemory=8000 State=UNKNOWN
PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=2-00:00:00 State=UP
CONF

start setpriv --reuid munge --regid munge --clear-groups munged --foreground
sleep 1
start slurmctld -D
start slurmd -D -N n1
start slurmd -D -N n2
for _ in $(seq 30); do
  [ "$(sinfo -h -t idle -o %D 2>/dev/null || true)" = 2 ] && break
  sleep 1
done
[ "$(sinfo -h -t idle -o %D)" = 2 ] || die "the nodes did not come up: see $state"
sinfo

PATH=$PWD/.venv/bin:$PATH
# The nodes have two cores; train and generate ask for more where there are more.
toy=(--profile slurm --configfile workflow/presets/toy.yaml --set-threads train=2 generate=2)
rm -rf results/toy
snakemake "${toy[@]}" "$@" &
master=$!
wait "$master"

# Nothing is left to do, and every job that was submitted has ended.
snakemake "${toy[@]}" "$@" 2>&1 | grep "Nothing to be done"
[ -z "$(squeue -h)" ] || die "jobs are left in the queue"
echo "tests/slurm/run.sh: passed"
