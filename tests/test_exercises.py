"""Solutions of the exercises in README, "Teaching with it": each changes a copy of the file, or runs a program."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from conftest import CHECKOUT, Launch

SOURCE = (CHECKOUT / "scoop_lite.py").read_text(encoding="utf-8")


@pytest.fixture
def launch_changed(tmp_path):
    """Returns a launch of a copy of the file in which texts are replaced: (old, new)…"""
    launches = []

    def change(*replacements, options=()):
        source = SOURCE
        for old, new in replacements:
            assert source.count(old) == 1, f"{source.count(old)} times in the file: {old}"
            source = source.replace(old, new)
        (tmp_path / "scoop_lite.py").write_text(source, encoding="utf-8")
        launches.append(Launch(tmp_path / "scoop_lite.py", tmp_path, options))
        return launches[-1]

    yield change
    for launch in launches:
        for run in launch.runs:
            run.kill()


NOTE = """
import scoop_lite
from scoop_lite import futures


def square(x):
    scoop_lite.note(f"squaring {x}")
    return x * x


if __name__ == "__main__":
    print(list(futures.map(square, range(3))))
"""
ROW = ("\n], 1)]", '\n    ("NOTE", "worker > broker", "facts", "a task says something", ""),\n], 1)]')
HANDLER = ("    def on_stats(self, member: Member", '''\
    def on_note(self, member: Member, frames: Frames) -> None:
        self.report(f"worker {member.rank} notes: {read_facts(frames[1], text=str)['text']}")

    def on_stats(self, member: Member''')  # fmt: skip
SENDER = ("def deadline_in(", '''\
def note(text: str) -> None:
    found = runtime()
    found.emit(found.scheduler.message("NOTE", facts(text=text)))


def deadline_in(''')  # fmt: skip


def test_1_a_new_message_needs_a_row_a_handler_and_a_sender(launch_changed):
    outcome = launch_changed(ROW)(NOTE)
    assert outcome.returncode != 0 and "on_note" in outcome.stderr, "a row without a handler is an error at start"
    outcome = launch_changed(ROW, HANDLER, SENDER)(NOTE, options=["-v", "--wiretap"])
    assert (outcome.returncode, outcome.stdout) == (0, "[0, 1, 4]\n"), outcome
    assert len(re.findall(r"worker \d+ > broker +NOTE", outcome.stderr)) == 3
    assert sorted(re.findall(r"worker \d notes: squaring (\d)", outcome.stderr)) == ["0", "1", "2"]


def test_2_a_broken_guarantee_is_noticed_by_the_test_that_the_table_names(launch_changed):
    """An origin that ends by `os._exit(0)` before its script has ended would count as a success."""
    launch = launch_changed(('self.end(death["code"] if self.said_bye else death["code"] or 1, death)',
                             'self.end(death["code"], death)'))  # fmt: skip
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--reruns", "0", "--combos=own-thread"]
    named = "test_the_origin_gone_in_mid_run_ends_everything_with_a_status"
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| the origin is killed, or calls `os._exit\(0\)` .*`{named}` \|$", readme, re.MULTILINE)
    done = subprocess.run([*words, f"--file={launch.file}", "tests/test_faults.py", "-k", named], cwd=CHECKOUT,
                          stdout=subprocess.PIPE, text=True, timeout=200)  # fmt: skip
    assert done.returncode == 1 and re.search(r"^FAILED .*" + named, done.stdout, re.MULTILINE), done.stdout


OPTION = ('        option("--check", ', '''\
        option("--greeting", metavar="TEXT", help="each worker prints it as it starts"),
        option("--check", ''')  # fmt: skip
FIELD = ("    check: bool = False", '    greeting: str = ""\n    check: bool = False')
USE = ("\n    found.schedule()\n", """
    if config.greeting:
        print(config.greeting, "from worker", rank, flush=True)
    found.schedule()
""")


def test_3_an_option_needs_a_row_and_a_field_to_reach_each_worker(launch_changed):
    """`configure` copies what has the name of a field; `Config` travels to every agent, and with it to the workers."""
    launch = launch_changed(OPTION, FIELD, USE)
    outcome = launch("from scoop_lite import futures\nfutures.run_on_all(abs, 1)\n", n=3, options=["--greeting", "Hi"])
    assert sorted(outcome.stdout.splitlines()) == ["Hi from worker 1", "Hi from worker 2"], outcome
    assert "each worker prints it" in launch(["--help"], n=None).stdout


def test_4_a_parallel_filter_is_a_map_and_a_zip(launch_once):
    outcome = launch_once("""
        import itertools
        from scoop_lite import futures


        def pfilter(keep, items):
            asked, items = itertools.tee(items)  # `map` draws its input as it needs it, so endless input works
            return (item for item, kept in zip(items, futures.map(keep, asked)) if kept)


        def is_prime(n):
            return n > 1 and all(n % d for d in range(2, int(n ** 0.5) + 1))


        if __name__ == "__main__":
            print(*itertools.islice(pfilter(is_prime, itertools.count()), 10))
    """)
    assert outcome.stdout == "2 3 5 7 11 13 17 19 23 29\n", outcome


def test_5_a_cluster_on_one_machine(launch_once):
    """Whatever runs a command and joins two pipes is a way to a host: here a shell that only knows the host's name."""
    program = """
        import os
        from scoop_lite import futures


        def where():
            return os.environ["NODE"]


        if __name__ == "__main__":
            print(*futures.run_on_all(where).values())
    """
    options = ["--launcher", "env NODE={host} sh -c", "--hosts", "red:1", "green:2"]
    outcome = launch_once(program, n=None, options=options)
    assert outcome.stdout == "red green green\n", outcome


CRASH = """
import os, sys, time
import scoop_lite
from scoop_lite import futures


def fragile(path, x):
    if scoop_lite.worker and not os.path.exists(path):  # never in the origin: that would end the script
        open(path, "w").close()
        os.abort()
    time.sleep(0.02)
    return x * x


if __name__ == "__main__":
    tasks = [futures.submit(fragile, sys.argv[1], x) for x in range(20)]
    try:
        print(sum(task.result() for task in tasks))
    except scoop_lite.WorkerLost as error:
        print("lost:", error)
"""


def test_6_a_death_costs_a_second_run_unless_that_is_forbidden(launch_once):
    mark = launch_once.directory / "mark"
    again = launch_once(CRASH, args=[mark])
    assert again.stdout == "2470\n" and again.returncode == 0 and "SIGABRT" in again.stderr, again
    os.remove(mark)
    never = launch_once(CRASH, args=[mark], options=["--retries", "0"])
    assert never.stdout.startswith("lost: ") and "fragile" in never.stdout, never
