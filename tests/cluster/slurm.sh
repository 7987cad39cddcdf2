#!/bin/sh
# slurm.sh - a real Slurm on one machine: munge, slurmctld and N slurmd on 127.0.0.1, without cgroups.
#
#   up [N]     start (default 3 nodes, node1..nodeN, 4 CPUs each); again: no-op
#   down       cancel jobs, stop the daemons, remove the state; again: no-op
#   missing    say what this machine lacks for it; status 1 if anything
#   env        print the line to eval before sbatch, salloc, srun
#
# All nodes have this machine's host name, files and processes. Nothing outside of $STATE is touched. One per machine:
# whoever uses it holds a lock on /run/scoop-lite-test-cluster.lock.
set -eu
STATE=/run/slurm-test
export SLURM_CONF=$STATE/slurm.conf

missing() {
  lacks=
  [ "$(id -u)" = 0 ] || lacks="$lacks, root"
  for program in munged slurmctld slurmd sbatch salloc srun; do
    command -v $program >/dev/null 2>&1 || lacks="$lacks, the program $program"
  done
  [ -z "$lacks" ] || { echo "missing: ${lacks#, }"; return 1; }
}

running() { [ -f "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

stop() { # pid file
  [ -f "$1" ] || return 0
  pid=$(cat "$1")
  kill "$pid" 2>/dev/null || :
  for _ in $(seq 60); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  rm -f "$1"
}

write_configuration() { # number of nodes
  # Without this line slurmd wants a file system on /sys/fs/cgroup, though no cgroups are used.
  echo CgroupPlugin=cgroup/v1 >$STATE/cgroup.conf
  cat >$SLURM_CONF <<E
ClusterName=test
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=26817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$STATE/munge/socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$STATE/state
SlurmdSpoolDir=$STATE/spool-%n
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd-%n.pid
SlurmctldLogFile=$STATE/slurmctld.log
SlurmdLogFile=$STATE/slurmd-%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=5
SlurmdTimeout=20
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
E
  for i in $(seq "$1"); do
    echo "NodeName=node$i NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$((26820 + i)) CPUs=4 RealMemory=1000" >>$SLURM_CONF
  done
}

nodes() { sed -n 's/^NodeName=\([^ ]*\) .*/\1/p' $SLURM_CONF; }

case ${1:-} in
up)
  missing >&2
  mkdir -p $STATE/munge $STATE/state
  chmod 755 $STATE $STATE/munge                               # munged insists on it for the folder of its socket
  [ -f $STATE/munge.key ] || (umask 077; head -c 128 /dev/urandom >$STATE/munge.key)
  [ -f $SLURM_CONF ] || write_configuration "${2:-3}"
  running $STATE/munged.pid || munged --socket=$STATE/munge/socket --key-file=$STATE/munge.key \
    --pid-file=$STATE/munged.pid --log-file=$STATE/munged.log --seed-file=$STATE/munge.seed --force 2>/dev/null
  running $STATE/slurmctld.pid || slurmctld
  for node in $(nodes); do running "$STATE/slurmd-$node.pid" || slurmd -N "$node"; done
  for _ in $(seq 100); do
    [ "$(sinfo -h -N -t idle,alloc,mix,comp 2>/dev/null | wc -l)" = "$(nodes | wc -l)" ] && break
    sleep 0.1
  done
  sinfo -h -N ;;
down)
  [ -d $STATE ] || { echo down; exit 0; }
  if timeout 3 sinfo -h >/dev/null 2>&1; then
    scancel -u root || :
    for _ in $(seq 10); do [ -z "$(squeue -h -t R,CF)" ] && break; sleep 0.3; done
  fi
  for node in $(nodes); do stop "$STATE/slurmd-$node.pid"; done
  stop $STATE/slurmctld.pid
  stop $STATE/munged.pid
  rm -rf $STATE
  echo down ;;
missing) missing ;;
env) echo "export SLURM_CONF=$SLURM_CONF" ;;
*) sed -n '2,10p' "$0"; exit 2 ;;
esac
