# A Slurm with two virtual nodes of two cores each on this machine; sourced by the scripts beside it.
#
#   apt-get install --no-install-recommends slurm-wlm munge
#
# As root, on a machine without a Slurm of its own. /etc/slurm/slurm.conf is written, because srun
# inside a job looks nowhere else, and removed at the end.
# shellcheck shell=bash

state=               # folder of the cluster's state and logs
declare -A daemons=() # name -> pid
master=              # pid of a Snakemake in the background

die() {
  printf '%s: error: %s\n' "$0" "$*" >&2
  exit 1
}

# start NAME PROGRAM ARGS...: a daemon in the foreground of a background job, so that its pid is known.
start() {
  local name=$1
  shift
  "$@" >>"$state/daemons.log" 2>&1 &
  daemons[$name]=$!
}

start_node() { start "$1" slurmd -D -N "$1"; }

# Wait until both nodes take jobs.
wait_for_nodes() {
  for _ in $(seq 60); do
    [ "$(sinfo -h -N -t idle,alloc,mix -o %N 2>/dev/null | wc -l)" -eq 2 ] && return
    sleep 1
  done
  die "the nodes did not come up: see $state"
}

start_cluster() {
  local tool host
  [ "$(id -u)" -eq 0 ] || die "starting Slurm and munge needs root"
  for tool in slurmctld slurmd munged sinfo; do
    command -v "$tool" >/dev/null ||
      die "$tool is missing: apt-get install --no-install-recommends slurm-wlm munge"
  done
  [ -x .venv/bin/snakemake ] || die "the environments are missing: bash setup.sh"
  [ ! -e /etc/slurm/slurm.conf ] || die "/etc/slurm/slurm.conf exists: this machine has its own Slurm"
  state=$(mktemp -d)
  trap stop_cluster EXIT
  trap 'exit 130' INT TERM
  mkdir -p "$state"/{state,spool/n1,spool/n2} /etc/slurm
  install -d -o munge -m 755 /run/munge
  [ -e /etc/munge/munge.key ] || install -o munge -m 400 <(head -c 1024 /dev/urandom) /etc/munge/munge.key
  host=$(hostname)
  echo "CgroupPlugin=cgroup/v1" >/etc/slurm/cgroup.conf
  # SlurmdTimeout and cred_expire: how long a dead node is waited for, and a job that it has lost.
  cat >/etc/slurm/slurm.conf <<CONF
ClusterName=toy
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=30
StateSaveLocation=$state/state
SlurmdSpoolDir=$state/spool/%n
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd-%n.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdTimeout=30
ReturnToService=2
InactiveLimit=0
KillWait=30
MinJobAge=300
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=2 RealMemory=16000 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=2 RealMemory=16000 State=UNKNOWN
PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=2-00:00:00 State=UP
CONF
  start munged setpriv --reuid munge --regid munge --clear-groups munged --foreground
  sleep 1
  start slurmctld slurmctld -D
  start_node n1
  start_node n2
  wait_for_nodes
}

# Called at the end of the script, whatever ends it.
stop_cluster() {
  local status=$? jobs name
  trap - EXIT INT TERM
  # Told to stop, Snakemake submits nothing more and waits for its jobs, which are then cancelled.
  [ -z "$master" ] || kill "$master" 2>/dev/null || true
  mapfile -t jobs < <(squeue -h -o %A 2>/dev/null || true)
  [ "${#jobs[@]}" -eq 0 ] || scancel "${jobs[@]}" || true
  [ -z "$master" ] || wait "$master" || true
  for name in n1 n2 slurmctld munged; do
    [ -n "${daemons[$name]-}" ] || continue
    kill "${daemons[$name]}" 2>/dev/null || true
    wait "${daemons[$name]}" 2>/dev/null || true
  done
  rm -f /etc/slurm/slurm.conf /etc/slurm/cgroup.conf
  if [ "$status" -eq 0 ]; then rm -rf "$state"; else echo "logs are kept in $state" >&2; fi
  exit "$status"
}
