#!/bin/sh
# netns-ssh.sh - N hosts on one machine: a network, UTS, PID, IPC and mount namespace and an sshd for each of them.
#
#   up [N]            build a switch namespace and node1..nodeN (default 3); again: no-op
#   down              stop everything, remove namespaces and state; again: no-op
#   missing           say what this machine lacks for it; status 1 if anything
#   status            one line for each node
#   exec NODE CMD..   run CMD inside NODE, without ssh
#   host CMD..        run CMD in the root network, but with the nodes' names and plain `ssh nodeX` working
#   pid1 NODE         the id, seen from outside, of the node's first process (sshd): everything on the node is below it
#   cut|drop NODE     unplug (switch port down) | swallow all packets (carrier stays up)
#   loss NODE PERCENT random loss at the switch
#   delay NODE MS [PERCENT]   delay each way (and loss), by a relay in user space: many kernels lack netem
#   rate NODE RATE    limit both ways, as tc writes it (1mbit)
#   heal NODE         undo cut, drop, loss, delay, rate
#   crash NODE, boot NODE   power off without FIN or RST, power on again
#
# From outside: ssh -F $STATE/ssh_config node1 hostname. Inside a node and under `host`, plain `ssh node1` does.
# Nodes have their own host name, processes, /dev/shm; other files are shared. $STATE/NODE/bin is first in a node's
# PATH (put an exec wrapper of another Python there), $STATE/NODE/bashrc takes the place of ~/.bashrc. Keys are made
# afresh and thrown away; known_hosts is strict; nobody's ~/.ssh, /etc/hosts or sshd is touched.
#
# Environment: NETNS_TAG   name of this set-up, so that several can stand side by side (default: nodes)
#              NETNS_NET   its first three bytes (default: 10.77.0); node I is .I, the root network .254 ("head")
#              PRIVATE     paths that get a file system of their own in each node (default: /dev/shm)
set -eu
TAG=${NETNS_TAG-nodes}
NET=${NETNS_NET-10.77.0}
PRIVATE=${PRIVATE-/dev/shm}
STATE=/run/netns-ssh/$TAG
SWITCH=$TAG-switch
UPLINK=up-$TAG                                              # 15 characters at most, as any interface
STDPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export STATE PRIVATE

space() { echo "$TAG-$1"; }                                 # the network namespace of a node
parent() { cat "$STATE/$1/pid" 2>/dev/null || echo 0; }     # its unshare, outside
first() { p=$(parent "$1"); [ ! -e "/proc/$p/task" ] || tr -d ' ' <"/proc/$p/task/$p/children"; }
alive() { [ -n "$(first "$1")" ]; }
index() { i=${1#node}; [ -d "$STATE/node$i" ] || { echo "no such node: $1" >&2; exit 2; }; }

missing() {
  lacks=
  [ "$(id -u)" = 0 ] || lacks="$lacks, root"
  for program in ip tc nft unshare nsenter ssh ssh-keygen; do
    command -v $program >/dev/null 2>&1 || lacks="$lacks, the program $program"
  done
  [ -x /usr/sbin/sshd ] || lacks="$lacks, the program /usr/sbin/sshd"
  unshare -n true 2>/dev/null || lacks="$lacks, network namespaces"
  [ -z "$lacks" ] || { echo "missing: ${lacks#, }"; return 1; }
}

boot() { # node index
  n=node$1 ns=$(space "node$1")
  alive "$n" && return 0
  ip netns add "$ns"
  ip -n "$ns" link set lo up
  ip -n "$SWITCH" link add name "n$1" type veth peer name eth0 netns "$ns"
  ip -n "$SWITCH" link set "n$1" master br0 up
  ip -n "$ns" addr add "$NET.$1/24" dev eth0
  # The same hardware address after a crash, or else the others keep a stale one for more than 10 s.
  ip -n "$ns" link set eth0 address "02:00:0a:4d:00:$(printf %02x "$1")" up
  setsid ip netns exec "$ns" unshare --uts --ipc --pid --fork --kill-child --mount-proc sh -c '
    hostname "$0"
    for d in $PRIVATE; do mount -t tmpfs -o mode=1777 tmpfs "$d"; done
    mount --bind "$STATE/ssh_config" /etc/ssh/ssh_config
    [ ! -e "$HOME/.bashrc" ] || mount --bind "$STATE/$0/bashrc" "$HOME/.bashrc"
    exec /usr/sbin/sshd -D -e -f "$STATE/$0/sshd_config"' "$n" </dev/null >>"$STATE/$n/log" 2>&1 &
  echo $! >"$STATE/$n/pid"
  for _ in $(seq 50); do
    ssh -F "$STATE/ssh_config" "$n" true 2>/dev/null && return 0
    sleep 0.1
  done
  echo "$n: sshd does not answer, see $STATE/$n/log" >&2
  return 1
}

halt() { # node index
  n=node$1
  ip -n "$SWITCH" link set "n$1" down 2>/dev/null || :
  c=$(first "$n" || :)
  [ -z "$c" ] || kill -9 "$c" 2>/dev/null || :             # with the first process the kernel ends all of the node's
  for _ in $(seq 100); do alive "$n" || break; sleep 0.05; done
  rm -f "$STATE/$n/pid"
  ip netns del "$(space "$n")" 2>/dev/null || :             # its sockets vanish without a word
  ip -n "$SWITCH" link del "n$1" 2>/dev/null || :
}

heal() { # node index
  nft=$(command -v nft || echo :)
  ip netns exec "$SWITCH" "$nft" delete table bridge "n$1" 2>/dev/null || :
  tc -n "$SWITCH" qdisc del dev "n$1" root 2>/dev/null || :
  tc -n "$(space "node$1")" qdisc del dev eth0 root 2>/dev/null || :
  if [ -f "$STATE/node$1/relay" ]; then
    ip -n "$SWITCH" link set "n$1" master br0 2>/dev/null || :
    kill "$(cat "$STATE/node$1/relay")" 2>/dev/null || :
    ip -n "$SWITCH" link del "brd$1" 2>/dev/null || :
    rm -f "$STATE/node$1/relay"
  fi
  ip -n "$SWITCH" link set "n$1" up 2>/dev/null || :
}

filter() { # node index, words of a match
  i=$1
  shift
  ip netns exec "$SWITCH" nft "table bridge n$i {}; delete table bridge n$i; table bridge n$i { chain f {
    type filter hook forward priority 0; iifname n$i $* drop; oifname n$i $* drop; }; }"
}

RELAY='
import collections, fcntl, os, random, select, struct, sys, time
delay, loss = float(sys.argv[3]) / 1e3, float(sys.argv[4]) / 100
def tap(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", name.encode(), 0x1002))
    return fd
a, b = map(tap, sys.argv[1:3])
other, queue, now = {a: b, b: a}, collections.deque(), time.monotonic
while True:
    for fd in select.select([a, b], [], [], max(0, queue[0][0] - now()) if queue else None)[0]:
        try:
            for _ in range(64):
                frame = os.read(fd, 65536)
                if random.random() >= loss:
                    queue.append((now() + delay, other[fd], frame))
        except OSError:
            pass
    while queue and queue[0][0] <= now():
        _, fd, frame = queue.popleft()
        try:
            os.write(fd, frame)
        except OSError:
            pass
'

write_configuration() { # number of nodes
  { echo "127.0.0.1 localhost"; echo "$NET.254 head $(hostname)"
    for i in $(seq "$1"); do echo "$NET.$i node$i"; done; } >"$STATE/hosts"
  : >"$STATE/known_hosts"
  : >"$STATE/ssh_config"
  for i in $(seq "$1"); do
    n=node$i
    mkdir -p "$STATE/$n/bin" "/etc/netns/$(space "$n")"
    : >>"$STATE/$n/bashrc"
    cp "$STATE/hosts" "/etc/netns/$(space "$n")/hosts"
    [ -f "$STATE/$n/host_key" ] || ssh-keygen -q -t ed25519 -N '' -C "$n" -f "$STATE/$n/host_key"
    echo "$n,$NET.$i $(cut -d' ' -f1,2 "$STATE/$n/host_key.pub")" >>"$STATE/known_hosts"
    printf 'Host %s\n  HostName %s\n' "$n" "$NET.$i" >>"$STATE/ssh_config"
    cat >"$STATE/$n/sshd_config" <<E
ListenAddress $NET.$i
HostKey $STATE/$n/host_key
AuthorizedKeysFile $STATE/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
MaxSessions 100
SetEnv PATH=$STATE/$n/bin:$STDPATH
Subsystem sftp internal-sftp
E
  done
  cat >>"$STATE/ssh_config" <<E
Host node* $NET.*
  User root
  IdentityFile $STATE/user_key
  IdentitiesOnly yes
  UserKnownHostsFile $STATE/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  ConnectTimeout 5
E
}

case ${1:-} in
up)
  N=${2:-3}
  missing >&2
  mkdir -p "$STATE" /run/sshd
  [ -f "$STATE/user_key" ] || ssh-keygen -q -t ed25519 -N '' -C throwaway -f "$STATE/user_key"
  if ! ip netns list | grep -qw "$SWITCH"; then
    ip netns add "$SWITCH"
    ip -n "$SWITCH" link add br0 type bridge
    ip -n "$SWITCH" link set br0 up
    ip link add name "$UPLINK" type veth peer name root netns "$SWITCH"
    ip -n "$SWITCH" link set root master br0 up
    ip addr add "$NET.254/24" dev "$UPLINK"
    ip link set "$UPLINK" up
  fi
  write_configuration "$N"
  for i in $(seq "$N"); do boot "$i"; done
  echo "up: ssh -F $STATE/ssh_config node1 hostname" ;;
down)
  for d in "$STATE"/node[0-9]*; do
    [ -d "$d" ] || continue
    i=${d##*/node}
    heal "$i"
    halt "$i"
    rm -rf "/etc/netns/$(space "node$i")"
  done
  ip netns del "$SWITCH" 2>/dev/null || :
  ip link del "$UPLINK" 2>/dev/null || :
  rm -rf "$STATE"
  rmdir /etc/netns /run/netns-ssh 2>/dev/null || :
  echo down ;;
missing) missing ;;
status)
  for d in "$STATE"/node[0-9]*; do
    [ -d "$d" ] || { echo down; break; }
    n=${d##*/}
    alive "$n" && echo "$n up, first process $(first "$n"), port $(ip -n "$SWITCH" -br link show "n${n#node}" |
      awk '{print $2}')" || echo "$n off"
  done ;;
exec)
  n=$2
  index "$n"
  shift 2
  alive "$n" || { echo "$n is off" >&2; exit 1; }
  PATH=$STATE/$n/bin:$PATH exec nsenter -t "$(first "$n")" -n -m -u -i -p --wd="$PWD" -- "$@" ;;
host)
  shift
  exec unshare -m sh -c 'mount --bind "$STATE/hosts" /etc/hosts; mount --bind "$STATE/ssh_config" /etc/ssh/ssh_config
    exec "$@"' sh "$@" ;;
pid1) index "$2"; first "$2" ;;
cut) index "$2"; ip -n "$SWITCH" link set "n$i" down ;;
drop) index "$2"; filter "$i" ;;
loss) index "$2"; filter "$i" numgen random mod 1000 "<" "$(awk "BEGIN{print int($3*10)}")" ;;
rate)
  index "$2"
  tc -n "$SWITCH" qdisc replace dev "n$i" root tbf rate "$3" burst 32k latency 400ms
  tc -n "$(space "node$i")" qdisc replace dev eth0 root tbf rate "$3" burst 32k latency 400ms ;;
delay)
  index "$2"
  heal "$i"
  setsid ip netns exec "$SWITCH" python3 -c "$RELAY" "da$i" "db$i" "$3" "${4:-0}" </dev/null >>"$STATE/node$i/log" 2>&1 &
  echo $! >"$STATE/node$i/relay"
  for _ in $(seq 50); do ip -n "$SWITCH" link show "db$i" >/dev/null 2>&1 && break; sleep 0.1; done
  ip -n "$SWITCH" link add "brd$i" type bridge
  ip -n "$SWITCH" link set "brd$i" up
  ip -n "$SWITCH" link set "da$i" master br0 up
  ip -n "$SWITCH" link set "db$i" master "brd$i" up
  ip -n "$SWITCH" link set "n$i" master "brd$i" ;;
heal) index "$2"; heal "$i" ;;
crash) index "$2"; heal "$i"; halt "$i" ;;
boot) index "$2"; boot "$i" ;;
*) sed -n '2,18p' "$0"; exit 2 ;;
esac
