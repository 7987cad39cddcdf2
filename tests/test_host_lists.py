"""What users and batch schedulers write about hosts, and the plan that it becomes: tables of inputs, nothing starts."""

from __future__ import annotations

import pickle

import pytest

import scoop_lite
from scoop_lite import Host, HostsError


def plan(text):
    """Write a plan down briefly: "a:2 b:?" for [Host("a", 2), Host("b", None)]; "=" for ":" where a name has colons."""
    hosts = []
    for word in text.split():
        name, n = word.split("=") if "=" in word else word.rsplit(":", 1)
        hosts.append(Host(name, None if n == "?" else int(n)))
    return hosts


def refused(what, *args, **kwargs):
    """Return the text of the HostsError that the call must end in."""
    with pytest.raises(HostsError) as caught:
        what(*args, **kwargs)
    return str(caught.value)


# ----------------------------------------------------------------------------------------------------------------------
# The command line
# ----------------------------------------------------------------------------------------------------------------------

COMMAND_LINES = [
    # a single mention without a count: as many as the host offers
    ("a", "a:?"),
    ("a b", "a:? b:?"),
    ("10.77.0.1 node1.example.org my_alias", "10.77.0.1:? node1.example.org:? my_alias:?"),
    # repeats count workers, as SCOOP has it, wherever they stand; then every bare mention is one
    ("a a", "a:2"),
    ("a b b", "a:1 b:2"),
    ("a b a c a", "a:3 b:1 c:1"),
    ("a b b user@c:4", "a:1 b:2 user@c:4"),
    # counts, and their sums
    ("a:4", "a:4"),
    ("a:4 b", "a:4 b:?"),
    ("a:4 b:1 a:2", "a:6 b:1"),
    ("a:4 a", "a:5"),
    ("a:004", "a:4"),
    ("a:100000", "a:100000"),
    # an alias and user@alias are different names, given to ssh as they are
    ("c user@c", "c:? user@c:?"),
    ("first.last@gpu-1:2", "first.last@gpu-1:2"),
    # IPv6: the brackets keep the count apart, ssh wants the address without them
    ("[::1]", "::1=?"),
    ("[::1]:4", "::1=4"),
    ("[::1] [::1]", "::1=2"),
    ("bob@[fe80::1%eth0]:2", "bob@fe80::1%eth0=2"),
    ("[2001:db8::192.0.2.1]:3", "2001:db8::192.0.2.1=3"),
    # node lists as Slurm writes them, a count belongs to the piece that it follows
    ("n[1-3]", "n1:? n2:? n3:?"),
    ("n[1-2]:4 gpu7", "n1:4 n2:4 gpu7:?"),
    ("a:1,b:2,c", "a:1 b:2 c:?"),
    ("n[1-2],[::1]:4", "n1=? n2=? ::1=4"),
    ("bob@n[08-10]:2", "bob@n08:2 bob@n09:2 bob@n10:2"),
    ("n[1-2] n[2-3]", "n1:1 n2:2 n3:1"),
]


@pytest.mark.parametrize("line, expected", COMMAND_LINES)
def test_command_line(line, expected):
    assert scoop_lite.parse_hosts(line.split(), "--hosts") == plan(expected)


BAD_NAME = "is not a host name; write [user@]name of letters, digits and . _ - (no '-' in front), or an IPv6"
BAD_COMMAND_LINES = [
    ([], "--hosts: names no host; name at least one"),
    ([""], "--hosts: an empty name or an unpaired bracket in ''; write a,b or n[1-3,7]"),
    (["a,"], "--hosts: an empty name or an unpaired bracket in 'a,'"),
    (["a,,b"], "an empty name or an unpaired bracket in 'a,,b'"),
    (["a", ":4"], "--hosts: an empty name or an unpaired bracket in ''"),
    (["a", "-x"], f"--hosts: '-x' {BAD_NAME}"),
    (["a:"], "--hosts: '' is not a number of workers; write 1 to 100000 or leave it out"),
    (["a:0"], "'0' is not a number of workers"),
    (["a:-1"], "'-1' is not a number of workers"),
    (["a:x"], "'x' is not a number of workers"),
    (["a:1.5"], "'1.5' is not a number of workers"),
    (["a:1_0"], "'1_0' is not a number of workers"),
    (["a:100001"], "'100001' is not a number of workers; write 1 to 100000"),
    (["a:\u0664"], r"'\u0664' is not a number of workers"),
    (["a:2:2"], "more than one count or colon at 'a:2:2'; write host:N or [IPv6]:N"),
    (["::1"], "more than one count or colon at '::1'; write host:N or [IPv6]:N"),
    (["fe80::1:4"], "more than one count or colon at 'fe80::1:4'"),
    (["[::1"], "an unpaired bracket in '[::1'"),
    (["[::g]"], "'::g' in brackets is no number or rising range"),
    (["[::1]]"], "an unpaired bracket in '[::1]]'"),
]


@pytest.mark.parametrize("words, text", BAD_COMMAND_LINES)
def test_bad_command_line(words, text):
    assert text in refused(scoop_lite.parse_hosts, words, "--hosts")


# ----------------------------------------------------------------------------------------------------------------------
# Names: nothing that a shell or ssh would read as more than a name gets through
# ----------------------------------------------------------------------------------------------------------------------

NAMES = [
    ("node1", "node1"),
    ("NODE_1.example-site.org", "NODE_1.example-site.org"),
    ("_jump", "_jump"),
    ("42", "42"),
    ("user@node1", "user@node1"),
    ("first.last-x_y@10.0.0.7", "first.last-x_y@10.0.0.7"),
    ("[::1]", "::1"),
    ("user@[fe80::a:b%en0]", "user@fe80::a:b%en0"),
    ("::1", "::1"),  # what came out once goes in again unchanged
    ("x" * 253, "x" * 253),
]


@pytest.mark.parametrize("name, expected", NAMES)
def test_name(name, expected):
    assert scoop_lite.check_host_name(name) == expected
    assert scoop_lite.check_host_name(expected) == expected


BAD_NAMES = [
    "", "-oProxyCommand=touch${IFS}x", "-", "--", "user@-oProxyCommand=x", "-l@host", "@host", "user@", "a@b@c", ".a",
    "a b", "a\tb", "a\n", "\na", "a\0", "a\x1b[31m", "a'b", 'a"b', "a\\b", "$HOME", "a`id`", "a;id", "a|id", "a&id",
    "a>x", "a<x", "a(b)", "a{b}", "a*", "a?", "a~", "~root", "a!b", "a#b", "a%b", "a^b", "a=b", "a+b", "a/b", "/etc",
    "a,b", "a:4", "n[1-3]", "ssh://a", "\u043d\u043e\u0434\u0430", "b\u00fcro", "a\u200b", "\u0661", "\ud800",
    "[::1", "::1]", "[]", "[a]", "[1:2]", "[::1]x", "[::1%]", "[::1%a;b]", "[-::1]", "1:" * 10, "x" * 254,
    "u" * 65 + "@a",
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_bad_name(name):
    text = refused(scoop_lite.check_host_name, name, "hosts.txt, line 7")
    assert text.startswith(f"hosts.txt, line 7: {name[:60]!a} {BAD_NAME}")
    assert text.isascii() and text.isprintable() and len(text) < 800


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_bad_name_never_reaches_a_plan(name):
    """Whatever a word or a line is taken for, what comes out of it passes the check on names."""
    for parse, *args in [(scoop_lite.parse_hosts, [name], "--hosts"), (scoop_lite.parse_hostfile, name, "hosts.txt")]:
        try:
            hosts = parse(*args)
        except HostsError:
            continue
        for host in hosts:
            assert scoop_lite.check_host_name(host.name) == host.name


# ----------------------------------------------------------------------------------------------------------------------
# Host files
# ----------------------------------------------------------------------------------------------------------------------

HOST_FILES = [
    # SCOOP
    ("host 4", "host:4"),
    ("host_or_ip 4\nother\nthird 2\n", "host_or_ip:4 other:? third:2"),
    ("a workers=4\nb workers=5", "a:4 b:5"),
    ("a 4\na 2\n", "a:6"),
    # Open MPI
    ("a slots=4", "a:4"),
    ("a slots=4 max_slots=8", "a:4"),
    ("a max-slots=4 slots=4", "a:4"),
    ("a slots = 4\nb  slots= 2", "a:4 b:2"),
    ("a cpu=2\nb count=3", "a:2 b:3"),
    ("# This is a comment\na  slots=10\n\nb\nc  slots=3", "a:10 b:? c:3"),
    # MPICH
    ("a:4\nb:2", "a:4 b:2"),
    ("a\nb:2", "a:? b:2"),
    ("[::1]:4\n[fe80::2] 2\nbob@[::3]", "::1=4 fe80::2=2 bob@::3=?"),
    # PBS node files: one line per worker
    ("a\na\nb\nb\n", "a:2 b:2"),
    ("a\nb\na\n", "a:2 b:1"),
    # Grid Engine: host, slots, queue instance, processors
    ("node1 2 test.q@node1 UNDEFINED\nnode2 3 test.q@node2 UNDEFINED\n", "node1:2 node2:3"),
    ("n1 2 a.q@n1 <NULL>\nn1 1 b.q@n1 0,1:0,2\n", "n1:3"),
    # Slurm node lists, also with counts
    ("n[001-003,7],gpu[1-2]x[3-4]", "n001:? n002:? n003:? n7:? gpu1x3:? gpu1x4:? gpu2x3:? gpu2x4:?"),
    ("n[1-3] 4", "n1:4 n2:4 n3:4"),
    ("n[1-3]:4", "n1:4 n2:4 n3:4"),
    ("n[1-2] slots=3 # two of them\nbob@x", "n1:3 n2:3 bob@x:?"),
    ("n1,n2 4\nn3", "n1:4 n2:4 n3:?"),
    # comments, blanks, other line ends, no last line end
    ("#a\n  # b\n\n \t \na 4#5\nb#", "a:4 b:?"),
    ("a 4\r\nb 2\r\n", "a:4 b:2"),
    ("\ta\t4  \n", "a:4"),
    # all together
    ("a 4\nb slots=2\nc:3\nc\nn[1-2]:1\n", "a:4 b:2 c:4 n1:1 n2:1"),
]


@pytest.mark.parametrize("text, expected", HOST_FILES)
def test_host_file(text, expected):
    assert scoop_lite.parse_hostfile(text, "hosts.txt") == plan(expected)


LINE = "a line is host, host N, host:N or host slots=N; a user goes before the host, user@host"
BAD_HOST_FILES = [
    ("", "hosts.txt: names no host; name at least one"),
    ("# nothing\n\n", "hosts.txt: names no host"),
    ("a 4\nb 0\n", "hosts.txt, line 2: '0' is not a number of workers; write 1 to 100000 or leave it out"),
    ("# one\n\na four\n", "hosts.txt, line 3: 'four' is not a number of workers"),
    ("a 4 8", f"hosts.txt, line 1: '8' does not belong here; {LINE}"),
    ("a b c", "hosts.txt, line 1: 'b' is not a number of workers"),
    ("a slots=4 slots=2", "hosts.txt, line 1: 'slots=2' does not belong here"),
    ("a slots=4 2", "hosts.txt, line 1: '2' does not belong here"),
    ("a slots=", "hosts.txt, line 1: '' is not a number of workers"),
    ("a slots=-2", "hosts.txt, line 1: '-2' is not a number of workers"),
    ("a slots=0", "hosts.txt, line 1: '0' is not a number of workers"),
    ("a slots=8 max_slots=4", "line 1: max_slots without slots, or below it; write slots=N, at most max_slots"),
    ("a max_slots=4", "line 1: max_slots without slots, or below it"),
    ("a user=bob", f"line 1: 'user=bob' does not belong here; {LINE}"),
    ("a:4 binding=user:0,1", "line 1: 'binding=user:0,1' does not belong here"),
    ("a:4 2", "line 1: more than one count or colon at 'a:4'; write host:N or [IPv6]:N"),
    ("=4", "line 1: '=4' is not a host name"),
    ("a,b,\n", "line 1: an empty name or an unpaired bracket in 'a,b,'"),
    ("n[1-3 4", "line 1: an empty name or an unpaired bracket in 'n[1-3'"),
    ("n[1, 2]", "line 1: '2]' is not a number of workers"),
    ("a 2 all.q UNDEFINED", f"line 1: 'all.q' does not belong here; {LINE}"),
    ("a x all.q@a UNDEFINED", "line 1: 'x' is not a number of workers"),
    ("\n\n\n\nrm -rf ;", "line 5: '-rf' is not a number of workers"),
    ("a\n$(id)\n", "hosts.txt, line 2: '$(id)' is not a host name"),
    ("\ufffd\ufffd\n", r"hosts.txt, line 1: '\ufffd\ufffd' is not a host name"),
    ("a " + "9" * 5000, "line 1: '" + "9" * 60 + "' is not a number of workers"),
]


@pytest.mark.parametrize("text, message", BAD_HOST_FILES)
def test_bad_host_file(text, message):
    assert message in refused(scoop_lite.parse_hostfile, text, "hosts.txt")


def test_host_file_is_read_as_editors_leave_it(tmp_path):
    path = tmp_path / "hosts file.txt"
    path.write_bytes(b"\xef\xbb\xbfa 4\r\nb 2 # caf\xe9\r\n")
    assert scoop_lite.parse_hostfile(scoop_lite.read_host_file(str(path)), str(path)) == plan("a:4 b:2")


def test_host_file_that_cannot_be_read(tmp_path):
    path = str(tmp_path / "none")
    assert refused(scoop_lite.read_host_file, path).startswith(f"{path}: cannot be read (No such file or directory); ")
    assert "(Is a directory); check its name" in refused(scoop_lite.read_host_file, str(tmp_path))


# ----------------------------------------------------------------------------------------------------------------------
# Slurm's compressed lists
# ----------------------------------------------------------------------------------------------------------------------

NODE_LISTS = [
    ("node1", "node1"),
    ("node[1-3]", "node1 node2 node3"),
    ("node[1,3]", "node1 node3"),
    ("n[001-003,7],gpu[1-2]x[3-4]", "n001 n002 n003 n7 gpu1x3 gpu1x4 gpu2x3 gpu2x4"),
    ("n[8-11]", "n8 n9 n10 n11"),
    ("n[08-11]", "n08 n09 n10 n11"),
    ("n[098-101]", "n098 n099 n100 n101"),
    ("n[5-5]", "n5"),
    ("n[00]", "n00"),
    ("n[2,1,2]", "n2 n1 n2"),
    ("r[1-2]c[01-02]-ib0", "r1c01-ib0 r1c02-ib0 r2c01-ib0 r2c02-ib0"),
    ("a,b[1-2],c.example.org,d-[7]", "a b1 b2 c.example.org d-7"),
    ("[1-2]a", "1a 2a"),
    ("a[1-2][3-4]", "a13 a14 a23 a24"),
]


@pytest.mark.parametrize("text, expected", NODE_LISTS)
def test_node_list(text, expected):
    assert scoop_lite.expand_nodelist(text) == expected.split()


BAD_NODE_LISTS = [
    ("", "node list: an empty name or an unpaired bracket in ''; write a,b or n[1-3,7]"),
    (",a", "an empty name or an unpaired bracket in ',a'"),
    ("n[1-3", "an empty name or an unpaired bracket in 'n[1-3'"),
    ("n1-3]", "an empty name or an unpaired bracket in 'n1-3]'"),
    ("n[1[2]]", "an empty name or an unpaired bracket in 'n[1[2]]'"),
    ("n[]", "'' in brackets is no number or rising range; write name[1-3,7]"),
    ("n[1-]", "'1-' in brackets is no number"),
    ("n[-3]", "'-3' in brackets is no number"),
    ("n[1--3]", "'1--3' in brackets is no number"),
    ("n[3-1]", "'3-1' in brackets is no number or rising range"),
    ("n[1-3,]", "'' in brackets is no number"),
    ("n[a-c]", "'a-c' in brackets is no number"),
    ("n[1-9/2]", "'1-9/2' in brackets is no number"),
    ("bgl[000x133]", "'000x133' in brackets is no number"),
    ("n[\u0661-\u0663]", r"'\u0661-\u0663' in brackets is no number"),
    ("n[1-" + "9" * 5000 + "]", "in brackets is no number"),
    ("n [1-2]", "'n 1' is not a host name"),
    ("-n[1-2]", "'-n1' is not a host name"),
    ("n[0-100000]", "node list: more than 100000 hosts; look for a slip in a range, or give fewer"),
    ("n[0-999999999999999999]", "more than 100000 hosts"),
    ("n[0-999]x[0-999]", "more than 100000 hosts"),
    ("n[0-99999],m", "more than 100000 hosts"),
    ("n" + "[0-9]" * 1000, "more than 100000 hosts"),
]


@pytest.mark.parametrize("text, message", BAD_NODE_LISTS, ids=lambda text: ascii(text[:30]))
def test_bad_node_list(text, message):
    assert message in refused(scoop_lite.expand_nodelist, text)


def test_largest_node_list():
    names = scoop_lite.expand_nodelist("n[00000-99999]")
    assert (len(names), names[0], names[-1]) == (100_000, "n00000", "n99999")


COUNTS = [
    ("1", [1]),
    ("2(x3),1", [2, 2, 2, 1]),
    ("4,1(x2)", [4, 1, 1]),
    ("4(x2),2", [4, 4, 2]),
    ("128(x1),0", [128, 0]),
]


@pytest.mark.parametrize("text, expected", COUNTS)
def test_counts(text, expected):
    assert scoop_lite.expand_counts(text) == expected


BAD_COUNTS = ["", "x", "2(x3", "2(3)", "2x3", "2(x)", "2,", "-1", "1 ", "\u0662", "1(x999999)"]


@pytest.mark.parametrize("text", BAD_COUNTS, ids=ascii)
def test_bad_counts(text):
    message = refused(scoop_lite.expand_counts, text, "SLURM_TASKS_PER_NODE")
    assert message == f"SLURM_TASKS_PER_NODE: {text!a} is not a list of counts; write counts like 2(x3),1"


# ----------------------------------------------------------------------------------------------------------------------
# Batch jobs: Slurm and Grid Engine as seen on real ones, PBS and LSF as their manuals describe them
# ----------------------------------------------------------------------------------------------------------------------

FILES = {
    "/pbs/nodes": "node1\nnode1\nnode2\nnode2\n",
    "/pbs/single": "node1.cluster\nnode2.cluster\n",
    "/sge/pe_hostfile": "".join(f"node{i} 2 test.q@node{i} UNDEFINED\n" for i in (1, 2, 3)),
    "/lsf/hosts": "h1\nh1\nh2\n",
    "/empty": "\n",
    "/broken": "node1\nnode1 x\n",
}


@pytest.fixture
def host_files(monkeypatch):
    monkeypatch.setattr(scoop_lite, "read_host_file", FILES.__getitem__)


def slurm(nodes, tasks, tasks_per_node, cpus_per_node):
    environ = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": nodes, "SLURM_NTASKS": tasks,
               "SLURM_TASKS_PER_NODE": tasks_per_node, "SLURM_JOB_CPUS_PER_NODE": cpus_per_node}
    return {name: value for name, value in environ.items() if value is not None}


JOBS = [
    ("Slurm", slurm("node[1-3]", "6", "2(x3)", "2(x3)"), "node1:2 node2:2 node3:2"),  # -N3 --ntasks-per-node=2
    ("Slurm", slurm("node[1-3]", "6", "4,1(x2)", "4,1(x2)"), "node1:4 node2:1 node3:1"),  # -N3 -n6
    ("Slurm", slurm("node[1-3]", "10", "4(x2),2", "4(x2),2"), "node1:4 node2:4 node3:2"),  # -N3 -n10
    ("Slurm", slurm("node[1,3]", "2", "1(x2)", "1(x2)"), "node1:1 node3:1"),  # -w node1,node3 -N2 -n2
    ("Slurm", slurm("node[1-4]", "4", "1(x4)", "2(x4)"), "node1:1 node2:1 node3:1 node4:1"),  # -N4 -n4 -c2
    ("Slurm", slurm("node[1-2]", None, "1(x2)", "1(x2)"), "node1:1 node2:1"),  # -N2
    ("Slurm", slurm("node[1-2]", None, "1(x2)", "8(x2)"), "node1:8 node2:8"),  # made up: -N2 with whole nodes
    ("Slurm", slurm("c[01-02],gpu1", "5", "2(x2),1", "2(x2),1"), "c01:2 c02:2 gpu1:1"),  # made up
    ("Slurm", slurm("c[1-3]", "2", "1(x2),0", "2(x3)"), "c1:1 c2:1"),  # made up
    ("PBS", {"PBS_NODEFILE": "/pbs/nodes"}, "node1:2 node2:2"),
    ("PBS", {"PBS_NODEFILE": "/pbs/single", "PBS_ENVIRONMENT": "PBS_BATCH"}, "node1.cluster:1 node2.cluster:1"),
    ("Grid Engine", {"PE_HOSTFILE": "/sge/pe_hostfile", "NSLOTS": "6", "SGE_TASK_ID": "undefined"},
     "node1:2 node2:2 node3:2"),
    ("Grid Engine", {"NSLOTS": "1", "SGE_TASK_ID": "undefined"}, "localhost:1"),
    ("Grid Engine", {"NSLOTS": "2", "SGE_TASK_ID": "17"}, "localhost:2"),
    ("LSF", {"LSB_MCPU_HOSTS": "h1 2 h2 3 "}, "h1:2 h2:3"),
    ("LSF", {"LSB_MCPU_HOSTS": "h1 1", "LSB_HOSTS": "h1", "LSB_DJOB_HOSTFILE": "/lsf/hosts"}, "h1:1"),
    ("LSF", {"LSB_DJOB_HOSTFILE": "/lsf/hosts", "LSB_HOSTS": "h1 h1 h2"}, "h1:2 h2:1"),
    ("LSF", {"LSB_HOSTS": "h1 h2 h1"}, "h1:2 h2:1"),
    ("LSF", {"LSB_HOSTS": "h1"}, "h1:1"),
    ("OAR", {"OAR_NODEFILE": "/pbs/nodes", "OAR_JOB_ID": "17"}, "node1:2 node2:2"),
]


@pytest.mark.parametrize("scheduler, environ, expected", JOBS)
def test_job(scheduler, environ, expected, host_files):
    environ = {"HOME": "/home/u", "PATH": "/bin", **environ}
    assert scoop_lite.hosts_from_environment(environ) == (scheduler, plan(expected))


@pytest.mark.parametrize("environ", [
    {}, {"HOME": "/home/u"}, {"NSLOTS": "4"}, {"SLURM_JOB_NODELIST": ""}, {"PBS_NODEFILE": "", "LSB_HOSTS": ""},
    {"SLURM_CONF": "/etc/slurm.conf", "LSF_BINDIR": "/opt/lsf", "SGE_ROOT": "/sge"},  # a login node
])
def test_not_in_a_job(environ, host_files):
    assert scoop_lite.hosts_from_environment(environ) is None


BAD_JOBS = [
    (slurm("node[1-3]", "1", "1", "2(x3)"), "SLURM_TASKS_PER_NODE: counts for 1 hosts, but SLURM_JOB_NODELIST names 3; "
     "start in the batch script or in salloc, not through srun, or replace Slurm's list by --hosts or --hostfile"),
    (slurm("node[1-3]", "3", None, None), "SLURM_TASKS_PER_NODE: '' is not a list of counts"),
    (slurm("node[1-3]", None, None, "2(y3)"), "SLURM_JOB_CPUS_PER_NODE: '2(y3)' is not a list of counts"),
    (slurm("node[1-", "3", "3", "3"), "SLURM_JOB_NODELIST: an empty name or an unpaired bracket in 'node[1-'"),
    (slurm("n1", "3", "0", "3"), "SLURM_TASKS_PER_NODE: names no host"),
    ({"PBS_NODEFILE": "/empty"}, "/empty: names no host; name at least one, or replace PBS's list by --hosts"),
    ({"PBS_NODEFILE": "/broken"}, "/broken, line 2: 'x' is not a number of workers"),
    ({"SGE_TASK_ID": "1", "NSLOTS": "many"}, "NSLOTS: 'many' is not a number of workers"),
    ({"LSB_MCPU_HOSTS": "h1 2 h2"}, "LSB_MCPU_HOSTS: '' is not a number of workers"),
    ({"LSB_MCPU_HOSTS": "h1 h2"}, "LSB_MCPU_HOSTS: 'h2' is not a number of workers"),
    ({"LSB_HOSTS": "h1 -v"}, "LSB_HOSTS: '-v' is not a host name"),
]


@pytest.mark.parametrize("environ, message", BAD_JOBS)
def test_bad_job(environ, message, host_files):
    text = refused(scoop_lite.hosts_from_environment, environ)
    assert text.startswith(message) and text.endswith("'s list by --hosts or --hostfile")


@pytest.mark.parametrize("name, label", [
    ("node1", "node1"), ("Node1.Some.Cluster", "node1"), ("10.0.0.1", "10.0.0.1"), ("10.0.0.2", "10.0.0.2"),
])  # fmt: skip
def test_names_of_one_host_may_differ_in_domain_and_case(name, label):
    assert scoop_lite.first_label(name) == label


def test_job_whose_file_is_gone(tmp_path):
    path = str(tmp_path / "gone")
    text = refused(scoop_lite.hosts_from_environment, {"PBS_NODEFILE": path})
    assert text.startswith(f"{path}: cannot be read (No such file or directory)")


# ----------------------------------------------------------------------------------------------------------------------
# -n over the hosts
# ----------------------------------------------------------------------------------------------------------------------

SPREADS = [
    # no -n: what the list says
    ("a:2 b:3", None, "a:2 b:3"),
    ("a:2 b:?", None, "a:2 b:?"),
    # as many as there are places
    ("a:2 b:3", 5, "a:2 b:3"),
    # fewer: host after host is filled, late ones go without
    ("a:2 b:3", 4, "a:2 b:2"),
    ("a:2 b:3", 2, "a:2"),
    ("a:2 b:3", 1, "a:1"),
    ("a:4 b:4 c:4", 9, "a:4 b:4 c:1"),
    # more: one to each host in turn
    ("a:2 b:3", 6, "a:3 b:3"),
    ("a:2 b:3", 7, "a:3 b:4"),
    ("a:1 b:1", 3, "a:2 b:1"),
    ("a:1 b:1 c:1", 8, "a:3 b:3 c:2"),
    ("a:4", 9, "a:9"),
    # no counts: evenly, the first ones get the rest
    ("a:?", 5, "a:5"),
    ("a:? b:?", 3, "a:2 b:1"),
    ("a:? b:? c:?", 8, "a:3 b:3 c:2"),
    ("a:? b:? c:?", 2, "a:1 b:1"),
    # some counts: hosts without one take what the others have no place for
    ("a:4 b:?", 10, "a:4 b:6"),
    ("a:4 b:? c:?", 11, "a:4 b:4 c:3"),
    ("a:? b:4", 3, "a:1 b:2"),
    ("a:4 b:?", 3, "a:3"),
]


@pytest.mark.parametrize("hosts, n, expected", SPREADS)
def test_spread(hosts, n, expected):
    assert scoop_lite.spread(plan(hosts), n) == plan(expected)


def test_spread_keeps_the_number_and_the_first_host():
    for hosts in ("a:1", "a:?", "a:3 b:1 c:2", "a:? b:5 c:?", "a:? b:? c:? d:?"):
        for n in range(1, 40):
            spread = scoop_lite.spread(plan(hosts), n)
            assert sum(host.n for host in spread) == n
            assert spread[0].name == "a" and all(host.n >= 1 for host in spread)


def test_spread_leaves_its_argument_alone():
    hosts = plan("a:2 b:3")
    scoop_lite.spread(hosts, 9)
    assert hosts == plan("a:2 b:3")
    assert scoop_lite.spread([], 3) == []


def test_error_is_a_misuse_and_travels():
    error = HostsError("hosts.txt, line 3", "'0' is not a number of workers", "write 1")
    assert isinstance(error, scoop_lite.MisuseError)
    assert str(error) == "hosts.txt, line 3: '0' is not a number of workers; write 1"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_counts_that_a_slip_has_made_huge_are_refused():
    with pytest.raises(scoop_lite.HostsError, match="more than"):
        scoop_lite.expand_counts(",".join(["1(x99999)"] * 2))
