"""What holds when hosts, their links, or the commands that start them fail.

Most tests run on stand-in hosts: ``faults/starter.py`` takes the place of ssh, so that a link can be cut, slowed and
spoiled anywhere, without root. Those at the end use a real sshd in network namespaces (``cluster/netns-ssh.sh``) and
need root.
"""
from __future__ import annotations

import json
import re
import signal
import time

import pytest
from faults import processes, system
from faults.cluster import Cluster, cluster_script, fixture_cluster, fixture_whole_cluster  # noqa: F401
from faults.fixtures import *  # noqa: F403
from faults.fixtures import PACES, limit, root
from faults.jobs import DEAD_AFTER_S, QUICK, Job, order_link, resume, stop
from faults.processes import process, processes_of, wait_until

pytestmark = pytest.mark.cluster

#: Tasks that hang on one of two hosts, until there is calm; elsewhere they are quick once two of them hang.
HANG_THERE = """
    def hang(i):
        note("run", i)
        if host() != {far!r} and not given("calm"):
            await_notes("far", 2)
        if host() == {far!r}:
            note("far", i)
        while host() == {far!r} and not given("calm"):
            {grip}
        return host()

    if __name__ == "__main__":
        reach("ready")
        if {idle}:
            await_sign("calm")
        fs = [futures.submit(hang, i) for i in range(6)]
        calls = []
        for f in fs:
            f.add_done_callback(calls.append)
        results = [f.result() for f in fs]
        reach("done")
        if {wait}:
            await_sign("end")
        print(len(calls), *results)
"""
GRIPS = {"idle": "pass", "computing": "burn(0.01)", "gil": "hold_gil(60)", "stopped": "time.sleep(0.01)"}


def hang_there(run, *options, grip="stopped", wait=False, far="beta", **how) -> Job:
    """Start a run of 2 workers on each of two hosts; return it when both of the second host's are stuck (or idle)."""
    if far == "beta":
        how["hosts"] = ("alpha", "beta")
    program = HANG_THERE.format(far=far, grip=GRIPS[grip], idle=grip == "idle", wait=wait)
    job = run(program, "-n", "4", "--min-hosts", "1", *options, **how)
    job.reached("ready")
    if grip == "idle":
        wait_until(lambda: len(job.workers("beta")) == 2, 5, lambda: "two workers; %s" % job)
    else:
        wait_until(lambda: len({x.pid for x in job.ledger("run") if x.host == far}) == 2, 10,
                   lambda: "both workers of %s at work; %s" % (far, job))
    if grip == "stopped" and far == "beta":
        assert len(job.workers("beta")) == 2
    return job


def check_done_elsewhere(job, far="beta") -> None:
    """Prove that all six tasks ended right, once each, with results that are not the lost host's."""
    outcome = job.finish()
    assert outcome.status == 0, str(job)
    calls, *hosts = outcome.out.split()
    assert int(calls) == 6 and len(hosts) == 6 and far not in hosts, str(job)
    assert max(job.runs().values()) <= 2
    job.clean()


def rerun_after_s(job, since_s, far="beta") -> float:
    """Wait until what a host had started is started again elsewhere; return the seconds since a moment."""
    lost = {x.key for x in job.ledger("run") if x.host == far}
    again = lambda: {x.key for x in job.ledger("run") if x.host != far and x.time_s > since_s}  # noqa: E731
    wait_until(lambda: lost <= again(), 30, lambda: "%s started again elsewhere; %s" % (sorted(lost), job))
    return max(x.time_s for x in job.ledger("run") if x.key in lost) - since_s


# A host stops, is cut off, is slow


@limit(120)
@pytest.mark.parametrize("pace", PACES)
def test_a_stopped_host_is_dead_in_time_and_its_late_results_are_refused(run, pace):
    job = hang_there(run, *pace.options, wait=True)
    beta = job.workers("beta")
    everyone = [job.agent("beta")] + beta
    stop(everyone)
    since_s = time.monotonic()
    assert rerun_after_s(job, since_s) <= pace.rerun_after_s
    job.reached("done")
    time.sleep(3 * pace.dead_after_s)
    job.give("calm")
    resume(everyone)
    wait_until(lambda: not processes_of(beta), 2 * pace.dead_after_s, lambda: "the late workers gone; %s" % job)
    time.sleep(0.3)
    job.give("end")
    check_done_elsewhere(job)


@limit(120)
@pytest.mark.parametrize("pace", PACES)
def test_a_cut_link_is_noticed_on_both_ends_and_late_results_are_refused(run, pace):
    job = hang_there(run, *pace.options, wait=True)
    beta = job.workers("beta")
    everyone = processes_of([job.agent("beta")] + beta)
    since_s = time.monotonic()
    order_link(job, "beta", "cut")
    assert rerun_after_s(job, since_s) <= pace.rerun_after_s
    job.give("calm")
    wait_until(lambda: not any(p.exists() for p in everyone), 3 * pace.dead_after_s,
               lambda: "the cut-off agent has ended itself and its workers; %s" % job)
    order_link(job, "beta", "ok")
    job.reached("done")
    time.sleep(0.3)
    job.give("end")
    check_done_elsewhere(job)


SLOW_LINK = """
    def big():
        note("run", host())
        return b"x" * {size}

    if __name__ == "__main__":
        futures.submit(len, b"").result()
        reach("ready")
        await_sign("go")
        f = futures.submit(big)
        print(len(poll(f, 60).result()))
"""


@limit(120)
@pytest.mark.parametrize("pace", PACES)
def test_a_slow_link_that_still_carries_bytes_is_alive(run_own, pace):
    size, rate = int(100000 * pace.dead_after_s), 25000
    job = run_own(SLOW_LINK.format(size=size), "-n", "2", *pace.options, hosts=("alpha", "beta"))
    job.reached("ready")
    order_link(job, "beta", "rate %d" % rate)
    job.give("go")
    begin = time.monotonic()
    outcome = job.right(size, 30 + size / rate)
    assert time.monotonic() - begin > 3 * pace.dead_after_s, "the link was not slow enough to show anything"
    assert job.runs() == {"beta": 1}
    assert outcome.err == ""


LOG_FLOOD = """
    import resource

    def flood():
        note("there")
        await_sign("flood")
        for i in range(1500):
            scoop_lite.logger.info("%s", "x" * 20000)
            if i == 100:
                note("flooding")
        return host(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < {most}

    if __name__ == "__main__":
        print(*poll(futures.submit(flood), 60).result())
"""


@limit(90)
def test_an_agent_and_its_workers_behind_a_stuck_link_hold_little_of_what_they_have_to_say(run_own, tmp_path):
    log = tmp_path / "log"
    options = ["-n", "2", "--log", str(log), "--dead-after", "60"]
    job = run_own(LOG_FLOOD.format(most=100 << 10), *options, hosts=("alpha", "beta"))
    job.noted("there")
    order_link(job, "beta", "cut")
    agent = job.agent("beta")
    before = processes.memory_kib(agent)
    job.give("flood")
    job.noted("flooding")
    end_s, grown = time.monotonic() + 5, 0
    while time.monotonic() < end_s:
        grown = max(grown, processes.memory_kib(agent) - before)
        assert grown < 12 << 10, "%d KiB of 30 MB; %s" % (grown, job)
        time.sleep(0.05)
    order_link(job, "beta", "ok")
    job.right("beta True", 60)
    assert len([line for line in log.read_text().splitlines() if "xxxx" in line]) == 1500


def test_big_arguments_results_and_functions_pass_to_other_hosts(run):
    """Where an import asks the launcher for the module: none may be necessary just when they arrive."""
    job = run("""
        def make(n):
            data = bytes(n)

            def add(argument):
                time.sleep(0.05)
                return len(data) + len(argument), bytes(n), os.getpid()

            return add

        if __name__ == "__main__":
            found = list(futures.map(make(5_000_000), [bytes(4_000_000)] * 8))
            print({row[0] for row in found}, {len(row[1]) for row in found}, len({row[2] for row in found}) > 1)
    """, "-n", "4", hosts=("alpha", "beta"))
    outcome = job.finish()
    assert (outcome.status, outcome.out) == (0, "{9000000} {5000000} True\n"), str(job)
    job.clean()


def test_a_link_with_delay_is_no_fault(run):
    job = hang_there(run, *QUICK)
    order_link(job, "beta", "delay 0.1")
    job.give("calm")
    outcome = job.finish()
    assert outcome.status == 0 and outcome.err == "", str(job)
    assert set(job.runs().values()) == {1}
    job.clean()


# An agent or a starter dies


@pytest.mark.parametrize("grip", GRIPS)
@pytest.mark.parametrize("whom", ["agent", "starter"])
def test_a_killed_agent_or_starter_costs_its_host_and_nothing_else(run, grip, whom):
    job = hang_there(run, grip=grip)
    beta = job.workers("beta")
    workers = processes_of(beta)
    if grip == "stopped":
        stop(beta)
    process(job.agent("beta") if whom == "agent" else job.starter("beta")).kill()
    wait_until(lambda: not any(w.exists() for w in workers), 3, lambda: "beta's workers gone; %s" % job)
    job.give("calm")
    check_done_elsewhere(job)
    assert "beta" in job.output("err"), "the loss of a host is said"


def test_what_a_scheduler_announces_to_every_process_here_costs_no_host(run):
    job = hang_there(run, grip="idle")
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        for host in ("alpha", "beta"):
            processes.send(job.starter(host), number)
    job.give("calm")
    assert job.finish().status == 0, str(job)
    assert "lost" not in job.output("err"), str(job)
    job.clean()


@pytest.mark.parametrize("whom", ["agent", "starter"])
def test_the_loss_of_the_origins_host_ends_everything_with_a_reason(run, whom):
    job = hang_there(run)
    process(job.agent("alpha") if whom == "agent" else job.starter("alpha")).kill()
    outcome = job.finish(5)
    job.clean()
    assert outcome.status != 0
    assert "alpha" in outcome.err and "Traceback" not in outcome.err, str(job)


@pytest.mark.parametrize("grip", GRIPS)
def test_a_killed_launcher_leaves_nobody_on_any_host(run, grip):
    job = hang_there(run, grip=grip)
    job.processes()
    if grip == "stopped":
        stop(job.workers("beta"))
    process(job.launcher).kill()
    job.clean(5)


def test_a_killed_launcher_leaves_nobody_behind_a_cut_link(run):
    job = hang_there(run, *QUICK)
    job.processes()
    order_link(job, "beta", "cut")
    agent = process(job.agent("beta"))
    workers = processes_of(job.workers("beta"))
    process(job.launcher).kill()
    wait_until(lambda: not any(p.exists() for p in [agent] + workers), 5, lambda: "the cut-off agent ended; %s" % job)
    order_link(job, "beta", "ok")
    job.clean(2)


# Hosts that do not start


SUM = """
    def square(i):
        return i * i

    if __name__ == "__main__":
        print(sum(futures.map(square, range(100))))
"""
#: What we say of each, beside what ssh does.
CAUSES = {
    "refused": "; is sshd running there, at this port",
    "unknown-key": "; its host key is unknown or has changed",
    "changed-key": "; its host key is unknown or has changed",
    "silent": r"no answer within \d+ s \(--join-timeout\); is it up",
    "no-python": "; there is no such Python; see --python-interpreter",
    "half": "the connection ended.* ended with status 255",
    "half-frame": "; something else than the agent wrote into the link",
}


def one_sentence(err: str) -> bool:
    """Tell whether standard error is for people: some lines, none of them a traceback's."""
    return 0 < len(err.splitlines()) <= 12 and "Traceback" not in err


@limit(90)
def test_a_host_that_does_not_start_is_named_with_its_cause(run):
    jobs = {name: run(SUM, "-n", "2", hosts=("alpha", name)) for name in CAUSES}
    begin = time.monotonic()
    for name, job in jobs.items():
        outcome = job.finish(max(0.1, begin + 15 - time.monotonic()))
        assert outcome.status != 0 and outcome.out == "", str(job)
        assert name in outcome.err and re.search(CAUSES[name], outcome.err), str(job)
        assert one_sentence(outcome.err), str(job)
        job.clean()


@limit(90)
def test_with_min_hosts_the_run_goes_on_with_the_others(run):
    jobs = {name: run(SUM, "-n", "2", "--min-hosts", "1", hosts=("alpha", name)) for name in CAUSES}
    begin = time.monotonic()
    for name, job in jobs.items():
        outcome = job.right(sum(i * i for i in range(100)), max(0.1, begin + 15 - time.monotonic()))
        assert name in outcome.err and one_sentence(outcome.err), str(job)


def test_start_up_files_that_print_do_no_harm_and_are_shown_with_v(run):
    job = run(SUM, "-n", "2", "-v", hosts=("alpha", "noisy"))
    outcome = job.right(sum(i * i for i in range(100)))
    assert "Welcome to noisy!" in outcome.err and "no end of line here" in outcome.err


def test_what_is_printed_behind_the_agents_first_words_fails_that_host_alone(run):
    job = run(SUM, "-n", "2", "--min-hosts", "1", hosts=("alpha", "babbling"))
    outcome = job.right(sum(i * i for i in range(100)))
    assert "host babbling did not join" in outcome.err and "got b'You have mail" in outcome.err, str(job)
    assert one_sentence(outcome.err), str(job)


# Hostile bytes inside the job's own pipes


WORDS = b"\r\nBroadcast message: the system goes down\r\n"


@pytest.mark.parametrize("order", ["inject " + WORDS.hex(), "inject 028000000000000000", "flip"])
def test_bytes_that_are_no_frame_cost_that_host_alone(run, order):
    job = hang_there(run, *QUICK, wait=True)
    before = processes.memory_kib(job.launcher)
    since_s = time.monotonic()  # before: a host that talks nonsense is lost at once
    order_link(job, "beta", order)
    assert rerun_after_s(job, since_s) <= 2 * DEAD_AFTER_S
    job.reached("done")
    assert processes.memory_kib(job.launcher, "VmHWM") - before <= 32 * 1024
    job.give("end")
    check_done_elsewhere(job)
    err = job.output("err")
    assert "beta" in err and one_sentence(err), err
    assert "the system goes down" in err or WORDS.hex() not in order, err


def test_a_lost_heartbeat_is_no_fault_and_a_repeated_result_counts_once(run):
    job = hang_there(run, *QUICK)
    order_link(job, "beta", "drop")
    time.sleep(0.6)
    order_link(job, "beta", "repeat")
    job.give("calm")
    outcome = job.finish()
    assert outcome.status == 0 and outcome.out.split()[0] == "6" and outcome.out.count("beta") == 2, str(job)
    assert set(job.runs().values()) == {1}
    job.clean()


def test_a_frame_without_end_fills_no_memory(run):
    job = run(SUM, "-n", "2", "--min-hosts", "1", hosts=("alpha", "huge-frame"))
    highest = 0
    while job.process.poll() is None:
        highest = max(highest, processes.memory_kib(job.launcher, "VmHWM"))
        time.sleep(0.02)
    outcome = job.right(sum(i * i for i in range(100)))
    assert "huge-frame" in outcome.err and one_sentence(outcome.err), str(job)
    assert highest <= 100 * 1024


# Names that mean something to a shell


EVIL = "$(touch pwned) `touch pwned`;touch pwned; 'q\" \\ ünï\n*\t-x"
ARGUMENTS = [EVIL, "", " ", "-n", "--", "$HOME", "~", "a b", "\x01", "{host}", "%s", "!x", "\udce9"]
WHOLE = """
    def arguments(i):
        return sys.argv[1:]

    if __name__ == "__main__":
        import json
        print(json.dumps([sys.argv[1:], poll(futures.submit(arguments, 0)).result(), os.getcwd(), __file__]))
"""


@pytest.mark.parametrize("hosts", [(), ("alpha", "beta")], ids=["local", "hosts"])
def test_names_and_arguments_arrive_byte_for_byte_and_nothing_is_executed(run, tmp_path, hosts):
    place = tmp_path / EVIL
    place.mkdir()
    script = place / (EVIL + ".py")
    job = run(WHOLE, "-n", "2", hosts=hosts, script=script, cwd=place, arguments=ARGUMENTS)
    outcome = job.finish()
    assert outcome.status == 0, str(job)
    assert json.loads(outcome.out) == [ARGUMENTS, ARGUMENTS, str(place), str(script)]
    assert not list(tmp_path.rglob("pwned")), "something was executed"
    job.clean()


BAD_HOSTS = ["-oProxyCommand=touch pwned", "$(touch pwned)", "`touch pwned`", "a;touch pwned", "a b c", "a|b", "ho'st",
             'a"b', "a\\b", "a&b", "user@-oProxyCommand=x", "-l", "a*", "../a"]


@pytest.mark.parametrize("bad", BAD_HOSTS)
@pytest.mark.parametrize("by", ["option", "hostfile"])
def test_a_bad_host_is_refused_before_anything_starts(run_own, tmp_path, by, bad):
    launcher = ["--launcher", "touch %s {host}" % (tmp_path / "pwned")]
    if by == "hostfile":
        (tmp_path / "hosts").write_text(bad + "\n", encoding="utf-8")
        job = run_own(SUM, "--hostfile", str(tmp_path / "hosts"), *launcher)
    else:
        job = run_own(SUM, "--hosts=" + bad, *launcher)
    outcome = job.finish(10)
    assert outcome.status == 2 and one_sentence(outcome.err), str(job)
    assert not job.has_reached("origin") and not list(tmp_path.rglob("pwned"))
    job.clean()


def test_the_own_engine_opens_no_port_on_any_host(run_own):
    job = hang_there(run_own)
    for pid in [job.launcher] + [p.pid for p in job.processes()]:
        assert system.sockets(pid) == [], str(job)
    job.give("calm")
    assert job.finish().status == 0
    job.clean()


# The same with real ssh


def remote(run, cluster: Cluster, *options, **how) -> Job:
    """Start a run of 2 workers on each of node1 and node2; return it when both of node2's are stuck."""
    return hang_there(run, *cluster.options("node1", "node2"), *options, far="node2", **how)


@root
@pytest.mark.parametrize("grip", ["computing", "gil"])
def test_over_ssh_a_killed_launcher_leaves_nobody(run, cluster, grip):
    job = remote(run, cluster, grip=grip)
    process(job.launcher).kill()
    job.clean(5)
    cluster.clean(15, "node1", "node2", "node3")


@root
@limit(120)
@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize("how", ["cut", "drop", "crash"])
def test_over_ssh_a_dead_link_is_noticed_on_both_ends_and_late_results_are_refused(run, cluster, how, pace):
    job = remote(run, cluster, *pace.options, wait=True)
    there = cluster.pythons("node2")
    cluster_script(how, "node2")
    assert rerun_after_s(job, time.monotonic(), "node2") <= pace.rerun_after_s
    wait_until(lambda: not any(p.exists() for p in there), 3 * pace.dead_after_s,
               lambda: "the cut-off agent has ended itself and its workers; %s" % job)
    cluster.heal()
    job.give("calm")
    job.reached("done")
    time.sleep(0.3)
    job.give("end")
    check_done_elsewhere(job, "node2")
    cluster.clean(15, "node1", "node2")


@root
@limit(120)
@pytest.mark.parametrize("pace", PACES)
def test_over_ssh_a_slow_link_that_still_carries_bytes_is_alive(run, cluster, pace):
    size = int(pace.dead_after_s * 400000)
    job = run(SLOW_LINK.format(size=size), *cluster.options("node1", "node2"), "-n", "2", *pace.options)
    job.reached("ready")
    cluster_script("rate", "node2", "1mbit")
    job.give("go")
    begin = time.monotonic()
    outcome = job.right(size, 60)
    assert time.monotonic() - begin > 3 * pace.dead_after_s, "the link was not slow enough to show anything"
    assert job.runs() == {"node2": 1}
    assert outcome.err == ""


REAL_CAUSES = {
    "unreachable": "; there is no route to it|; is it up",
    "refused": CAUSES["refused"],
    "unknown-key": CAUSES["unknown-key"],
    "changed-key": CAUSES["changed-key"],
    "node3": CAUSES["no-python"],
}


@root
@limit(90)
@pytest.mark.parametrize("allowed", [False, True], ids=["strict", "min-hosts"])
def test_over_ssh_a_host_that_does_not_start_is_named_with_its_cause(run, cluster, allowed):
    cluster.python("node3", "echo 'bash: line 1: python3: command not found' >&2; exit 127")
    more = ["--min-hosts", "1"] if allowed else []
    more += ["--python-interpreter", "python3"]
    jobs = {name: run(SUM, *cluster.options("node1", name), "-n", "2", *more) for name in REAL_CAUSES}
    begin = time.monotonic()
    for name, job in jobs.items():
        outcome = job.finish(max(0.1, begin + 14 - time.monotonic()))
        assert name in outcome.err and re.search(REAL_CAUSES[name], outcome.err), str(job)
        assert one_sentence(outcome.err), str(job)
        assert (outcome.status == 0) == allowed and (outcome.out.strip() == "328350") == allowed, str(job)
        job.clean()
    cluster.clean(5, "node1", "node2", "node3")


@root
def test_over_ssh_start_up_files_that_print_do_no_harm(run, cluster):
    (cluster.state("node2") / "bashrc").write_text("printf 'Welcome!\\nand no end of line'\n")
    job = run(SUM, *cluster.options("node1", "node2"), "-n", "2", "-v")
    assert "and no end of line" in job.right(328350).err


@root
@pytest.mark.parametrize("whom", ["session", "agent"])
def test_over_ssh_a_session_or_agent_killed_costs_its_host_alone(run, cluster, whom):
    job = remote(run, cluster, *QUICK)
    pythons = cluster.pythons("node2")
    agent = max(pythons, key=lambda p: len(processes.children(p.pid)))
    victims = cluster.processes("node2") - pythons if whom == "session" else {agent}
    for victim in victims:
        victim.kill()
    wait_until(lambda: not any(p.exists() for p in pythons), 3, lambda: "node2's workers gone; %s" % job)
    check_done_elsewhere(job, "node2")
    assert "node2" in job.output("err") and one_sentence(job.output("err"))
    cluster.clean(5, "node1", "node2")


@root
def test_over_ssh_names_and_arguments_arrive_byte_for_byte(run, cluster, tmp_path):
    place = tmp_path / EVIL
    place.mkdir()
    script = place / (EVIL + ".py")
    job = run(WHOLE, *cluster.options("node1", "node2"), "-n", "2", script=script, cwd=place, arguments=ARGUMENTS)
    outcome = job.finish()
    assert outcome.status == 0, str(job)
    assert json.loads(outcome.out) == [ARGUMENTS, ARGUMENTS, str(place), str(script)]
    assert not list(tmp_path.rglob("pwned")), "something was executed"
    job.clean()


@root
def test_over_ssh_the_own_engine_opens_no_port_on_any_host(run_own, cluster):
    job = remote(run_own, cluster)
    for python in cluster.pythons("node1", "node2") | {process(job.launcher)}:
        assert system.sockets(python.pid) == [], str(job)
    job.give("calm")
    assert job.finish().status == 0
    job.clean()


BROKEN_LINK = """
    import os, socket, sys, time
    from scoop_lite import futures

    def break_link(how):
        link = sys.modules["scoop_lite"].runtime().link
        if how == "garbage":
            os.write(link.fileno(), b"?" * 300)
        elif how == "shut":
            link.sock.shutdown(socket.SHUT_WR)
        elif how == "two":
            for _ in range(3):
                link.send([bytes(9), b"in another's name"])
        else:
            os.close(link.fileno())

    def work(i, how):
        if i >= 5 and os.environ.get("SCOOP_TEST_HOST") and not os.path.exists("broken"):
            open("broken", "w").close()
            break_link(how)
        time.sleep(0.05)
        return i

    if __name__ == "__main__":
        tasks = [futures.submit(work, i, sys.argv[1]) for i in range(40)]
        print([task.result() for task in tasks] == [*range(40)])
"""


@pytest.mark.parametrize("how", ["garbage", "shut", "closed", "two"])
def test_a_worker_there_that_lives_on_without_its_link_is_ended_and_costs_nobody_else(launch_once, tmp_path, how):
    """As its agent sees it, which relays what it says."""
    starter = launch_once.write('#!/bin/sh\nshift\nSCOOP_TEST_HOST=1 exec sh -c "$*"\n', "starter")
    starter.chmod(0o755)
    options = ["--launcher", f"{starter} {{host}}", "--hosts", "localhost:1", "other:2"]
    outcome = launch_once(BROKEN_LINK, n=None, options=options, args=[how], timeout=60)
    assert (outcome.returncode, outcome.stdout) == (0, "True\n"), outcome
    assert re.search(r"worker [12] on other .* starting another", outcome.stderr), outcome
    assert "Traceback" not in outcome.stderr and "is lost" not in outcome.stderr, outcome


def test_a_busy_host_whose_command_is_gone_at_the_second_try_is_named(launch_once):
    """Its first try's words are still to be told; others go on, if they may."""
    starter = launch_once.write('#!/bin/sh\nrm "$0"\necho kex_exchange_identification >&2\nexit 255\n', "starter")
    starter.chmod(0o755)
    options = ["--launcher", f"{starter} {{host}}", "--hosts", "localhost:1", "other:1", "--min-hosts", "1"]
    outcome = launch_once("print('goes on')", n=None, options=options, timeout=60)
    assert (outcome.returncode, outcome.stdout) == (0, "goes on\n"), outcome
    assert "host other did not join" in outcome.stderr and "Traceback" not in outcome.stderr, outcome


@pytest.mark.parametrize("option", ["--log", "--trace"])
def test_a_file_that_cannot_be_written_any_more_when_workers_start_is_named(launch_once, tmp_path, option):
    starter = launch_once.write('#!/bin/sh\nrm -rf kept\nshift\nexec sh -c "$*"\n', "starter")
    starter.chmod(0o755)
    (tmp_path / "kept").mkdir()
    options = ["--launcher", f"{starter} {{host}}", "--hosts", "localhost:1", "other:1", option, "kept/file"]
    outcome = launch_once("print('runs')", n=None, options=options, timeout=60)
    assert (outcome.returncode, outcome.stdout) == (1, "runs\n"), outcome
    assert "kept/file: No such file or directory" in outcome.stderr and "Traceback" not in outcome.stderr, outcome
