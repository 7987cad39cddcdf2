#!/bin/sh
# sge.sh - a real Grid Engine over the nodes of netns-ssh.sh: qmaster and execd on node1, execd on the others.
#
#   up         (after netns-ssh.sh up) queue test.q, 4 slots a node, parallel environment "mpi"; again: no-op
#   down       delete jobs, stop the daemons, remove the state; before netns-ssh.sh down; again: no-op
#   missing    say what this machine lacks for it; status 1 if anything
#   env        print the line to eval before: netns-ssh.sh exec node1 qsub
#
# It refuses a host whose address means "localhost", hence the namespaces. One per machine: whoever uses it holds a
# lock on /run/scoop-lite-test-cluster.lock.
set -eu
S=/run/sge-test; D=$(dirname "$(readlink -f "$0")"); NS="$D/netns-ssh.sh"; L=/usr/lib/gridengine
export SGE_ROOT=$S SGE_CELL=default SGE_QMASTER_PORT=26444 SGE_EXECD_PORT=26445

missing() {
  "$NS" missing || return 1
  [ -x $L/sge_qmaster ] && [ -x $L/sge_execd ] && [ -x $L/qconf ] || { echo "missing: the programs of Grid Engine"; return 1; }
}

q() { "$NS" exec node1 timeout 20 "$@"; }
pidf() { [ $1 = qmaster ] && echo $S/qmaster/qmaster.pid || echo $S/execd/$1/execd.pid; }
running() { "$NS" exec $1 kill -0 $(cat $(pidf $2) 2>/dev/null || echo x) 2>/dev/null; }
stop() { [ -f $(pidf $2) ] || return 0; p=$(cat $(pidf $2)); "$NS" exec $1 kill $p 2>/dev/null || return 0
  for t in $(seq 10); do running $1 $2 || return 0; sleep 0.1; done; "$NS" exec $1 kill -9 $p 2>/dev/null || :; }
nodes() { "$NS" status | awk '$2 == "up," {print $1}'; }

case ${1:-} in
up)
  missing >&2
  NODES=$(nodes); [ -n "$NODES" ] || { echo "run netns-ssh.sh up first" >&2; exit 1; }
  if [ ! -f $S/ready ]; then
    mkdir -p $S/default/common $S/spooldb $S/qmaster/job_scripts $S/execd
    for d in bin lib util utilbin; do ln -sfn /var/lib/gridengine/$d $S/$d; done
    echo node1 >$S/default/common/act_qmaster
    cat >$S/default/common/bootstrap <<E
admin_user        none
default_domain    none
ignore_fqdn       false
spooling_method   berkeleydb
spooling_lib      libspoolb
spooling_params   $S/spooldb
binary_path       $L
qmaster_spool_dir $S/qmaster
security_mode     none
listener_threads  2
worker_threads    2
scheduler_threads 1
E
    sed "s|^execd_spool_dir.*|execd_spool_dir $S/execd|; s|^mailer .*|mailer /bin/true|; s|^min_\([ug]\)id.*|min_\1id 0|" \
      /usr/share/gridengine/default-configuration >$S/conf                     # min_uid 0: root may run jobs
    { $L/spoolinit berkeleydb libspoolb $S/spooldb init
      $L/spooldefaults configuration $S/conf
      $L/spooldefaults complexes /usr/share/gridengine/util/resources/centry
      $L/spooldefaults usersets /usr/share/gridengine/util/resources/usersets
      $L/spooldefaults managers root; } >$S/init.log 2>&1
  fi
  running node1 qmaster || "$NS" exec node1 $L/sge_qmaster
  if [ ! -f $S/ready ]; then
    { for t in $(seq 50); do q qconf -sh && break; sleep 0.1; done
      for n in $NODES; do q qconf -ah $n || :; q qconf -as $n || :; done; q qconf -as head || :
      { echo "group_name @allhosts"; echo "hostlist" $NODES; } >$S/hg; q qconf -Ahgrp $S/hg
      printf '%s\n' 'pe_name mpi' 'slots 999' 'user_lists NONE' 'xuser_lists NONE' 'start_proc_args NONE' 'stop_proc_args NONE' \
        'allocation_rule $round_robin' 'control_slaves TRUE' 'job_is_first_task FALSE' 'urgency_slots min' \
        'accounting_summary FALSE' 'qsort_args NONE' >$S/pe; q qconf -Ap $S/pe
      T=; for n in $NODES; do mkdir -p $S/tmp/$n; T="$T,[$n=$S/tmp/$n]"; done        # nodes share /tmp: job TMPDIRs would collide
      q qconf -sq | sed 's/^qname .*/qname test.q/; s/^hostlist .*/hostlist @allhosts/; s/^pe_list .*/pe_list mpi/; s/^slots .*/slots 4/
        s|^shell .*|shell /bin/sh|; s|^tmpdir .*|tmpdir /tmp'"$T"'|; s/^load_thresholds .*/load_thresholds NONE/' >$S/queue; q qconf -Aq $S/queue
      q qconf -ssconf | sed 's/^schedule_interval .*/schedule_interval 0:0:2/; s/^\(flush_[a-z]*_sec\) .*/\1 1/' >$S/sched
      q qconf -Msconf $S/sched; } >>$S/init.log 2>&1 || { tail -5 $S/init.log >&2; exit 1; }
    touch $S/ready
  fi
  for n in $NODES; do running $n $n || "$NS" exec $n $L/sge_execd; done
  for t in $(seq 100); do [ "$(q qhost | grep -c '^node.* lx')" = "$(echo $NODES | wc -w)" ] && break; sleep 0.1; done
  q qstat -f | grep test.q ;;
down)
  [ -d $S ] || { echo down; exit 0; }
  if [ "$("$NS" status | awk '/^node1 up/ {print 1}')" = 1 ]; then
    q qdel -u '*' >/dev/null 2>&1 && sleep 2 || :
    for n in $(nodes); do stop $n $n; done; stop node1 qmaster
  fi
  rm -rf $S; echo down ;;
missing) missing ;;
env) echo "export SGE_ROOT=$SGE_ROOT SGE_CELL=$SGE_CELL SGE_QMASTER_PORT=$SGE_QMASTER_PORT SGE_EXECD_PORT=$SGE_EXECD_PORT" ;;
*) sed -n '2,10p' "$0"; exit 2 ;;
esac
