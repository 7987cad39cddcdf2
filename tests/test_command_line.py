"""The command line: what the script sees, what the user sees, and what the shell gets back.

The oracle is the same Python without us: `launch.plain`.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import pstats
import py_compile
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

import pytest
from conftest import CHECKOUT, MARKER, program

import scoop_lite

#: Prints what a program can know about how it was started.
MIRROR = """
import json, os, signal, sys, threading


def about(number: int = 0):
    main = sys.modules["__main__"]
    return {
        "name": __name__,
        "annotations": str(about.__annotations__),
        "file": globals().get("__file__"),
        "argv": sys.argv,
        "path": sys.path,
        "cwd": os.getcwd(),
        "environment": dict(os.environ),
        "globals": main.__dict__ is globals(),
        "package": __package__,
        "doc": __doc__,
        "spec": __spec__ and __spec__.name,
        "loader": getattr(__loader__, "__name__", type(__loader__).__name__),
        "builtins": type(__builtins__).__name__,
        "executable": sys.executable,
        "flags": str(sys.flags),
        "signals": {int(s): str(signal.getsignal(s)) for s in signal.Signals},
        "blocked": [int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "main thread": threading.current_thread() is threading.main_thread(),
        "hooks": [sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__, sys.gettrace() is None],
        "streams": [[type(s).__name__, s.encoding, s.errors, s.write_through, s.isatty(), s.fileno(), s.name, s.mode]
                    for s in (sys.stdin, sys.stdout, sys.stderr)],
        "recursion": sys.getrecursionlimit(),
        "umask": [os.umask(0o22), os.umask(0o22)],
        "handlers": [str(h) for h in __import__("logging").getLogger().handlers],
        "bytecode": sys.dont_write_bytecode,
        "switch": sys.getswitchinterval(),
        "gc": [__import__("gc").isenabled(), __import__("gc").get_threshold()],
        "nice": os.nice(0),
        "warnings": len(sys.warnoptions),
        "locale": __import__("locale").setlocale(__import__("locale").LC_ALL),
    }


if __name__ == "__main__":
    print(json.dumps(about()))
"""


def mirrored(outcome):
    """What MIRROR printed, without what must differ between any two runs or is ours to set."""
    assert (outcome.returncode, outcome.stderr) == (0, ""), outcome
    facts = outcome.facts
    environment = facts["environment"]
    environment.pop(MARKER)
    facts["environment"] = {k: v for k, v in environment.items() if not k.endswith("_THREADS")}
    return facts


def expect_the_same(ours, plain):
    """Expect two runs of MIRROR to have seen the same; SIGINT, SIGTERM and SIGHUP may have a handler of ours."""
    ours, plain = mirrored(ours), mirrored(plain)
    for facts in (ours, plain):
        facts.update({f"${name}": value for name, value in facts.pop("environment").items()})
        facts.update({f"signal {number}": name for number, name in facts.pop("signals").items()})
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            facts.pop(f"signal {int(number)}")
    missing = "nothing"
    names = [name for name in {**ours, **plain} if ours.get(name, missing) != plain.get(name, missing)]
    assert {name: ours.get(name, missing) for name in names} == {name: plain.get(name, missing) for name in names}


def one_sentence(outcome, *words, status=2):
    """Expect one clear sentence with these words on standard error, nothing on standard output, and this status."""
    assert outcome.returncode == status, outcome
    assert outcome.stdout == "", outcome
    lines = [line for line in outcome.stderr.splitlines() if line and not line.startswith("usage:")]
    assert len(lines) == 1, outcome
    assert "Traceback" not in outcome.stderr
    for word in words:
        assert word in lines[0], outcome


# ---------------------------------------------------------------------------------------------------------------------
# The script sees what plain Python would show it
# ---------------------------------------------------------------------------------------------------------------------


def test_a_script_sees_what_python_would_show_it(launch):
    words = ["-n", "7", "--help", "-v", "", "two words", "quo\"te's", "$(touch x);`y`", "ümläut €", "new\nline", "--"]
    script = launch.write(MIRROR)
    expect_the_same(launch(script, args=words), launch.plain(script, args=words))


@pytest.mark.parametrize(
    "words",
    [["program.py"], ["--", "program.py"], ["-m", "program"], ["-mprogram"], ["-qn2", "-c", "CODE"], ["-qcCODE"]],
    ids=" ".join,
)
def test_two_dashes_belong_to_the_program(launch_once, words):
    """argparse would take them away, with `-m` and `-c` all that follows them, too."""
    source = "import sys\nprint(sys.argv[1:])\n"
    launch_once.write(source)
    args = ["--", "a", "--", "-n", "b"]
    outcome = launch_once([*(word.replace("CODE", source) for word in words), *args], n=None)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, f"{args}\n", "")


def test_arguments_arrive_byte_for_byte(launch_once):
    script = launch_once.write("import os, sys\nprint([os.fsencode(word) for word in sys.argv[1:]])\n")
    words = [bytes([i]) * 2 for i in range(1, 256)] + ["é".encode("latin-1")]
    ours, plain = launch_once(script, args=words), launch_once.plain(script, args=words)
    assert (ours.stdout, ours.stderr, ours.returncode) == (plain.stdout, plain.stderr, 0)


@pytest.mark.parametrize("how", ["relative", "dotted", "subdirectory", "link", "no suffix", "odd name", "elsewhere"])
def test_the_script_may_lie_anywhere(launch_once, tmp_path, how):
    """`__file__`, `sys.argv[0]` and `sys.path[0]` as Python sets them, however the script was named."""
    script = launch_once.write(MIRROR)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "linked.py").symlink_to(script)
    odd = "a b'c;$d é-ж.v2.py"
    for name in ("plainname", odd, "below/inside.py"):
        shutil.copy(script, tmp_path / name)
    named = {
        "relative": "program.py",
        "dotted": "./below/../program.py",
        "subdirectory": "below/inside.py",
        "link": "below/linked.py",
        "no suffix": "plainname",
        "odd name": odd,
        "elsewhere": str(script),
    }[how]
    cwd = "/" if how == "elsewhere" else tmp_path
    expect_the_same(launch_once([named], cwd=cwd), launch_once.plain([named], cwd=cwd))


def test_the_environment_arrives(launch_once):
    env = {"PYTHONUNBUFFERED": "1", "EMPTY": "", "BYTES": os.fsdecode(b"\xff\xfe"), "PYTHONIOENCODING": "latin-1",
           "OMP_NUM_THREADS": "7"}  # fmt: skip
    script = launch_once.write(MIRROR)
    expect_the_same(launch_once(script, env=env), launch_once.plain(script, env=env))


FLAGS = [["-O"], ["-B", "-E"], ["-W", "error"], ["-X", "utf8", "-u"], ["-I"], *[["-P"]] * (sys.version_info >= (3, 11))]


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_options_of_python_itself_hold(launch_once, flags):
    script = launch_once.write(MIRROR)
    python = [sys.executable, *flags]
    expect_the_same(launch_once(script, python=python), launch_once.plain(script, python=python))


def test_module(launch, tmp_path):
    (tmp_path / "pack" / "inner").mkdir(parents=True)
    for name in ("pack/__init__.py", "pack/inner/__init__.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "pack" / "tool.py").write_text('"""A tool."""\nfrom . import inner\n' + MIRROR)
    (tmp_path / "pack" / "__main__.py").write_text(MIRROR)
    for module in ("pack.tool", "pack"):
        words = ["-m", module, "-x", "--version"]
        expect_the_same(launch(words), launch.plain(words))


def test_functions_of_a_module_reach_the_workers(launch, tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "helper.py").write_text("FACTOR = 3\n")
    (tmp_path / "pack" / "job.py").write_text(
        program("""
        from . import helper

        def triple(x):
            time.sleep(0.001)
            return x * helper.FACTOR

        def main():
            return [list(futures.map(triple, range(50))), away(guarded, 5).result(), sys.argv[1:]]

        if __name__ == "__main__":
            def guarded(x):  # of which the workers' import knows nothing
                return triple(x)
        """)
    )
    outcome = launch(["-m", "pack.job", "a", "-n"])
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.facts == [[3 * i for i in range(50)], 15, ["a", "-n"]]


#: As coverage's is: without a guard, and with a module of its own as `__main__` for as long as the script runs.
RUNNER = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
RUN_BY = {
    "script": ["runner.py", "program.py"], "package": ["-m", "runner", "program.py"], "directory": ["runner"],
    "package of its own": ["-m", "own"], "cProfile": ["-m", "cProfile", "-o", "profile", "program.py"],
    "trace": ["-m", "trace", "--count", "-C", "counts", "program.py"], "runpy": ["-m", "runpy", "program"],
}  # fmt: skip


@pytest.mark.parametrize("how", RUN_BY)
def test_a_program_that_a_tool_runs_is_run_once(launch, tmp_path, how):
    """No worker runs the tool, and so the script's guarded block, in order to find the script's functions."""
    source = program("""
        class Point:
            def __init__(self, x):
                self.x = x

        def double(point):
            time.sleep(0.001)
            return Point(2 * point.x)

        def main():
            record("run")
            points = [*futures.map(double, map(Point, range(50))), away(double, Point(7)).result()]
            return [{type(point) is Point for point in points} == {True}, sum(point.x for point in points)]
    """)
    launch.write(source)
    launch.write(RUNNER, "runner.py")
    for package, main in (("runner", RUNNER), ("own", source.replace('if __name__ == "__main__":', "if True:"))):
        (tmp_path / package).mkdir()
        launch.write(main, f"{package}/__main__.py")
    outcome = launch(RUN_BY[how], n=3, args=["program.py"] if how == "directory" else [])
    assert outcome.returncode == 0 and "[true, 2464]" in outcome.stdout, outcome
    assert launch.ledger == {"run": 1}


TIMES_FIVE = """
    FIVE = 5

    def times(x):
        time.sleep(0.001)
        return x * FIVE

    def main():
        return [list(futures.map(times, range(50))), away(times, 5).result()]
"""


def test_code(launch):
    words = ["-c", MIRROR, "-n", "x y"]
    expect_the_same(launch(words), launch.plain(words))
    outcome = launch(["-c", program(TIMES_FIVE)])
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.facts == [[5 * i for i in range(50)], 25]


def test_a_program_from_standard_input(launch):
    """As a here-document in a job's script is."""
    words = ["-", "-n", "x y", "-"]
    expect_the_same(launch(words, stdin=MIRROR.encode()), launch.plain(words, stdin=MIRROR.encode()))
    outcome = launch(["-"], stdin=program(TIMES_FIVE).encode())
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.facts == [[5 * i for i in range(50)], 25]


@pytest.mark.parametrize("source", [b"print(1\n", b"def f():\n    1 / 0\n\nf()\n"], ids=["syntax", "error"])
def test_what_is_wrong_with_a_program_from_standard_input(launch_once, source):
    ours, plain = launch_once(["-"], stdin=source), launch_once.plain(["-"], stdin=source)
    assert (ours.returncode, ours.stdout, ours.stderr) == (plain.returncode, plain.stdout, plain.stderr)


def test_a_program_from_standard_input_that_cannot_be_read(launch_once):
    one_sentence(launch_once(["-"], stdin=b"print('\xe9')"), "read a program from standard input")
    words = ["-c", 'exec "$@" <&-', "sh", sys.executable, launch_once.file, "-"]
    one_sentence(launch_once.run(words, python=["sh"]).finish(), "read a program from standard input")


def test_modules_beside_the_script_reach_the_workers(launch, tmp_path):
    (tmp_path / "beside.py").write_text(
        "def where(x):\n    import os, time\n    time.sleep(0.01)\n    return [x, os.getpid()]\n"
    )
    outcome = launch(
        program("""
        import beside

        def main():
            rows = list(futures.map(beside.where, range(100)))
            return [[row[0] for row in rows] == list(range(100)), len({row[1] for row in rows})]
        """),
        cwd="/",
    )
    assert (outcome.returncode, outcome.stderr, outcome.facts) == (0, "", [True, 2])


def test_workers_find_modules_where_the_script_tells_python_to_look(launch, tmp_path):
    """A worker that has not needed the script yet imports it, rather than failing for a module that it makes known."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far.py").write_text(
        "def where(x):\n    import os, time\n    time.sleep(0.01)\n    return [x, os.getpid()]\n"
    )
    outcome = launch(
        program(f"""
        import sys
        sys.path.insert(0, {str(tmp_path / "elsewhere")!r})
        import far

        def main():
            rows = list(futures.map(far.where, range(100)))
            return [[row[0] for row in rows] == list(range(100)), len({{row[1] for row in rows}})]
        """)
    )
    assert (outcome.returncode, outcome.stderr, outcome.facts) == (0, "", [True, 2])


def test_workers_import_the_script_under_another_name(launch):
    outcome = launch("""
        import os, time
        from scoop_lite import futures

        with open(os.environ["LEDGER"], "a") as ledger:
            ledger.write("imported as %s in %d\\n" % (__name__, os.getpid()))

        def work(x):
            time.sleep(0.005)
            return os.getpid()

        if __name__ == "__main__":
            print(len(set(futures.map(work, range(60)))))
    """, n=3)  # fmt: skip
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "3\n", "")
    names = sorted(line.split()[2] for line in launch.ledger)
    assert len(names) == 3 and names.count("__main__") == 1


def test_a_script_without_a_guard_is_told_about_it(launch):
    outcome = launch("""
        import time
        from scoop_lite import futures

        def work(x):
            time.sleep(0.05)
            return x

        print(sum(futures.map(work, range(40))))
    """)
    assert outcome.returncode == 1, outcome
    assert re.search(r"""if __name__ == ["']__main__["']""", outcome.stderr), outcome


# ---------------------------------------------------------------------------------------------------------------------
# Streams
# ---------------------------------------------------------------------------------------------------------------------


def test_streams_are_binary_safe(launch):
    data = bytes(range(256)) * 4000 + b"no newline at the end"
    script = launch.write("""
        import sys
        data = sys.stdin.buffer.read()
        sys.stdout.buffer.write(data[::-1])
        sys.stderr.buffer.write(data)
    """)
    outcome = launch(script, stdin=data)
    assert outcome.returncode == 0
    assert outcome.stdout_bytes == data[::-1]
    assert outcome.stderr_bytes == data


def test_the_script_has_the_users_own_streams(launch_once, tmp_path):
    """Not copies of what we relay: the very same open files."""
    script = launch_once.write("""
        import os
        facts = [[os.fstat(fd).st_ino, os.lseek(fd, 0, os.SEEK_CUR) if fd == 0 else 0] for fd in (0, 1, 2)]
        with open(os.environ["LEDGER"], "w") as ledger:
            ledger.write(repr(facts))
    """)
    paths = [tmp_path / name for name in ("in", "out", "err")]
    paths[0].write_bytes(b"123456789")
    with open(paths[0], "rb") as stdin, open(paths[1], "wb") as stdout, open(paths[2], "wb") as stderr:
        os.lseek(stdin.fileno(), 4, os.SEEK_SET)
        outcome = launch_once(script, stdin=stdin, stdout=stdout, stderr=stderr)
    assert outcome.returncode == 0, paths[2].read_text()
    assert eval(launch_once.ledger_path.read_text()) == [
        [path.stat().st_ino, 4 * (i == 0)] for i, path in enumerate(paths)
    ]


def test_output_of_the_script_is_not_held_back(launch):
    run = launch.start("""
        import sys, time
        sys.stdout.write("now")
        sys.stdout.flush()
        sys.stderr.write("and here\\n")
        sys.stderr.flush()  # Python 3.8 holds it back itself
        time.sleep(1)
        print("end")
    """)
    run.wait_for("now")
    run.wait_for("and here", "stderr")
    early = time.monotonic() - run.started
    outcome = run.finish()
    assert outcome.stdout == "nowend\n" and outcome.seconds - early > 0.7


def test_lines_of_the_workers_stay_whole(launch):
    outcome = launch(
        program("""
        import subprocess

        def talk(i):
            for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
                if scoop_lite.IS_ORIGIN:
                    stream.write("%s-%d-%s\\n" % (name, i, "x" * 200))
                    stream.flush()
                    continue
                stream.write("%s-%d" % (name, i))
                stream.flush()
                time.sleep(0.001)
                stream.write("-" + "x" * 100)
                stream.flush()
                stream.write("x" * 100 + "\\n")
            return 0

        def child(i):
            return subprocess.call("echo child; echo child error >&2", shell=True)

        def binary(i):
            os.write(1, b"\\xff\\x00bytes\\n")

        def main():
            list(futures.map(talk, range(150)))
            away(child, 0).result()
            away(binary, 0).result()
        """),
        n=4,
    )
    assert outcome.returncode == 0, outcome
    lines = outcome.stdout_bytes.splitlines()
    errors = outcome.stderr_bytes.splitlines()
    lines.remove(b"null")  # the origin's own: what a worker printed just before may come after it
    xs = b"x" * 200
    assert sorted(lines) == sorted([b"out-%d-%s" % (i, xs) for i in range(150)] + [b"child", b"\xff\x00bytes"])
    assert sorted(errors) == sorted([b"err-%d-%s" % (i, xs) for i in range(150)] + [b"child error"])


def test_lines_of_the_origin_stay_whole_too(launch_once):
    """Python's own buffer of 8 KiB is full in mid-line."""
    outcome = launch_once(program("""
        def main():
            for i in range(40):
                for j in range(100):
                    print("o" * (100 + (i + j) % 50))
                away(print, "w").result()
                time.sleep(0.02)
    """), env={"PYTHONUNBUFFERED": ""})  # fmt: skip
    lines = ["o" * (100 + (i + j) % 50) for i in range(40) for j in range(100)]
    assert sorted(outcome.stdout.splitlines()) == ["null", *sorted(lines), *["w"] * 40]


def test_lines_stay_whole_in_a_pipe_that_is_full(launch_once, tmp_path):
    """It takes parts of what is longer than PIPE_BUF, and what others write in between."""
    script = launch_once.write("""
        from scoop_lite import futures

        def talk(i):
            for _ in range(20):
                print(f"<{i}:" + "x" * (i % 300) + f":{i}>")

        if __name__ == "__main__":
            list(futures.map(talk, range(4_000)))
    """)
    words = [sys.executable, str(launch_once.file), "-n", "4", str(script)]
    run = subprocess.Popen(words, env={**os.environ, "PYTHONUNBUFFERED": ""}, stdout=subprocess.PIPE)
    time.sleep(1)
    lines = run.stdout.read().decode().splitlines()
    assert (run.wait(60), len(lines)) == (0, 80_000)
    assert sorted(lines) == sorted(f"<{i}:{'x' * (i % 300)}:{i}>" for i in range(4_000) for _ in range(20))


def test_all_that_workers_print_arrives(launch):
    outcome = launch(
        program("""
        def talk(i):
            for k in range(2000):
                print("line", i, k, "-" * 60)
            sys.stdout.write("unfinished %d" % i)
            sys.stderr.write("unfinished error %d" % i)

        def main():
            away(talk, 1).result()
        """)
    )
    assert outcome.returncode == 0
    assert outcome.stdout.count("\nline 1 ") + outcome.stdout.startswith("line 1 ") == 2000
    assert outcome.stdout.count("unfinished 1") == 1
    assert outcome.stderr.count("unfinished error 1") == 1


def test_standard_input_belongs_to_the_script(launch):
    outcome = launch(
        program("""
        def steal(i):
            time.sleep(0.005)
            return None if scoop_lite.IS_ORIGIN else outcome(sys.stdin.read)

        def main():
            first = sys.stdin.readline()
            stolen = set(futures.map(steal, range(40))) - {None}
            return [first, sorted(map(str, stolen)), sys.stdin.read()]
        """),
        stdin=b"one\ntwo\nthree\n",
    )
    assert (outcome.returncode, outcome.stderr) == (0, "")
    first, stolen, rest = outcome.facts
    assert (first, rest) == ("one\n", "two\nthree\n")
    assert not any("two" in text for text in stolen)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(launch_once, closed):
    """Descriptors 0, 1 and 2 may be free, and must not be mistaken for the user's when something of ours gets them."""
    script = launch_once.write(
        program("""
        def main():
            values = list(futures.map(abs, range(-50, 0)))
            record(sum(values), away(abs, -7).result(), sys.stdin is None, sys.stdout is None, sys.stderr is None)
        """)
    )
    words = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, launch_once.file, "-n", "2", script]
    outcome = launch_once.run(words[1:], python=["sh"]).finish()
    assert outcome.returncode == 0, outcome
    missing = ["<&-" in closed, " >&-" in " " + closed, "2>&-" in closed]
    assert launch_once.ledger == {" ".join(map(str, [sum(range(51)), 7, *missing])): 1}, outcome


def test_a_reader_that_goes_away(launch_once):
    """As with `python script.py | head -1`."""
    script = launch_once.write("for i in range(10 ** 6):\n    print('line', i)\n")
    command = f'"{sys.executable}" "$@" | head -1'
    ours = launch_once.run(["-c", command, "sh", launch_once.file, "-n", "2", script], python=["sh"]).finish()
    plain = launch_once.run(["-c", command, "sh", script], python=["sh"]).finish()
    assert (ours.stdout, ours.returncode) == (plain.stdout, plain.returncode) == ("line 0\n", 0)
    assert ours.stderr.splitlines()[-1:] == plain.stderr.splitlines()[-1:]


SLOWLY_READ = """
    import os, time
    from scoop_lite import futures

    def say(origin):
        time.sleep(0.001)
        os.getpid() == origin or print("x" * 5000)
        return os.getpid() != origin

    if __name__ == "__main__":
        print(sum(futures.map(say, [os.getpid()] * 400)), "lines", flush=True)
"""


def test_output_waits_for_a_slow_reader(launch_once):
    """As with `python scoop_lite.py script.py | less`: the job is over long before all is read."""
    command = f'"{sys.executable}" "$@" | (sleep 5; cat)'
    script = launch_once.write(SLOWLY_READ)
    outcome = launch_once.run(["-c", command, "sh", launch_once.file, "-n", "2", script], python=["sh"]).finish()
    n = int(re.search(r"(\d+) lines", outcome.stdout).group(1))
    assert n > 20 and outcome.stdout.count("x") == n * 5000 and outcome.stderr == ""


def test_an_interrupt_ends_the_wait_for_a_reader_and_is_no_success(launch_once, tmp_path):
    over = tmp_path / "over"
    end = SLOWLY_READ.replace("print(sum(", "sum(").replace(', "lines", flush=True)', f"; open({str(over)!r}, 'w')")
    words = [sys.executable, launch_once.file, "-n", "2", launch_once.write(end)]
    job = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    while not over.exists() and job.poll() is None:
        time.sleep(0.1)
    with pytest.raises(subprocess.TimeoutExpired):
        job.wait(3)  # nobody reads
    job.send_signal(signal.SIGINT)
    assert job.wait(10) == 1
    assert job.stderr.read().endswith(b"what workers printed could not all be written: it was not read in time\n")
    job.stdout.close(), job.stderr.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_what_a_full_disk_does_not_take_is_told_and_no_success(launch_once):
    """What workers print, and the events of --trace: the launcher writes both, so no script could find out."""
    say = launch_once.write("""
        import os, time
        from scoop_lite import futures

        def say(origin):
            time.sleep(0.01)
            os.getpid() == origin or print("a line")

        if __name__ == "__main__":
            list(futures.map(say, [os.getpid()] * 20))
            [futures.submit(time.sleep, 0.003) for _ in range(400)]
    """)
    full = ["-c", 'exec "$@" >/dev/full', "sh", sys.executable, launch_once.file, "-q", "-n", "2", say]
    outcome = launch_once.run(full, python=["sh"]).finish()
    text = "scoop_lite: what workers printed could not all be written: [Errno 28] No space left on device\n"
    assert (outcome.returncode, outcome.stderr) == (1, text)
    words = [launch_once.file, "-n", "2", "--trace", "t.json", say]
    small = ["-c", 'ulimit -f 16; exec "$@"', "sh", sys.executable, *words]
    outcome = launch_once.run(small, python=["sh"]).finish()
    text = "scoop_lite: --log or --trace could not all be written: [Errno 27] File too large\n"
    assert (outcome.returncode, outcome.stderr) == (1, text)


PRINTING = """
    import os, time
    from scoop_lite import futures

    def say(origin):
        time.sleep(0.01)
        os.getpid() == origin or print("a line")

    if __name__ == "__main__":
        list(futures.map(say, [os.getpid()] * 20))
        print("done", file=__import__("sys").stderr)
"""


@pytest.mark.parametrize("how, why", [
    ("", "[Errno 5] Input/output error"),  # of a terminal that has gone away
    ("1</dev/null", "[Errno 9] Bad file descriptor"),
    ("| true", ""),
    (">&-", ""),
])  # fmt: skip
def test_output_that_cannot_be_written_is_told_unless_nobody_wants_it(launch_once, how, why):
    terminal, stdout = os.openpty()
    far = ["--launcher", "env H={host} sh -c", "--hosts", "localhost:1", "far:1"]  # whose workers have a stdout
    words = ["-c", f'set -o pipefail; "$@" {how}', "bash", sys.executable, launch_once.file, *far]
    run = launch_once.run([*words, launch_once.write(PRINTING)], python=["bash"], stdout=stdout)
    os.close(terminal), os.close(stdout)
    outcome = run.finish()
    text = f"scoop_lite: what workers printed could not all be written: {why}\n"
    assert (outcome.returncode, outcome.stderr) == (bool(why), "done\n" + text * bool(why))


@pytest.mark.parametrize("n_processes, status, told", [
    (1, 1, "scoop_lite: the agent of this host cannot be started: Resource temporarily unavailable; see `ulimit -a`"),
    (2, 1, "scoop_lite: the origin (pid 0) could not be started: Resource temporarily unavailable; see `ulimit -a`"),
    (4, 0, "can't start new thread to serve others while a task runs: they wait for its end; see `ulimit -u`"),
])  # fmt: skip
def test_a_user_who_may_have_few_processes_is_told_so_and_gets_what_is_possible(n_processes, status, told):
    """Two workers need four; their threads, and that which writes for the launcher, can be missed."""
    if getattr(os, "geteuid", lambda: 1)() != 0:
        pytest.skip("needs root, to become a user who has no processes yet")
    pytest.importorskip("greenlet")
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        shutil.copy(CHECKOUT / "scoop_lite.py", place)

        def become_another():
            os.setgid(54321 + n_processes)  # each a user of its own
            os.setuid(54321 + n_processes)
            resource.setrlimit(resource.RLIMIT_NPROC, (n_processes, n_processes))

        how = {"preexec_fn": become_another, "cwd": place, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        try:
            subprocess.run([sys.executable, "-c", "import greenlet"], check=True, timeout=60, **how)
        except (OSError, subprocess.SubprocessError):
            pytest.skip("another user cannot run this Python")
        code = "from scoop_lite import futures; print(sum(futures.map(abs, range(100_000))))"
        words = ["scoop_lite.py", "-n", "2", "--strands", "greenlet", "-c", code]
        done = subprocess.run([sys.executable, *words], universal_newlines=True, timeout=60, **how)
    assert done.returncode == status and told in done.stderr and "Traceback" not in done.stderr, done
    assert done.stdout == ("" if status else "4999950000\n")


# ---------------------------------------------------------------------------------------------------------------------
# A terminal
# ---------------------------------------------------------------------------------------------------------------------


class Terminal:
    """A run whose streams are a terminal of its own, and whose session that terminal controls."""

    def __init__(self, launch, program, **how):
        self.master, slave = os.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[1] &= ~termios.ONLCR  # newlines arrive as they were written
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        self.run = launch.start(program, preexec_fn=self._control, **streams, **how)
        os.close(slave)
        self.text = ""

    @staticmethod
    def _control():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def read_until(self, text, limit_s=15):
        limit = time.monotonic() + limit_s
        os.set_blocking(self.master, False)
        while text not in self.text and time.monotonic() < limit:
            try:
                self.text += os.read(self.master, 65536).decode()
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:  # Linux: nobody has the other side open any more
                break
        return self.text

    def type(self, text):
        os.write(self.master, text.encode())


def test_the_script_is_on_the_terminal(launch):
    terminal = Terminal(
        launch,
        program("""
        def main():
            print("ttys", [os.isatty(fd) for fd in (0, 1, 2)], sys.stdout.isatty(), sys.stdin.isatty())
            print("foreground", os.tcgetpgrp(0) == os.getpgrp(), sys.stdout.line_buffering)
            name = input("name? ")
            print("hello", name, sum(futures.map(abs, range(-10, 0))))
            away(print, "from a worker").result()
            return 0
        """),
    )
    terminal.read_until("name? ")
    terminal.type("Ada\n")
    terminal.read_until("\n0\n")
    text = terminal.read_until("from a worker\n")  # it comes another way, perhaps later
    outcome = terminal.run.finish()
    assert outcome.returncode == 0
    assert "ttys [True, True, True] True True\n" in text
    assert "foreground True True\n" in text
    assert "hello Ada 55\n" in text
    assert "from a worker\n" in text


def test_control_c_at_the_terminal(launch):
    terminal = Terminal(
        launch,
        program("""
        def forever(i):
            time.sleep(60)

        def main():
            try:
                print("ready", flush=True)
                list(futures.map(forever, range(10)))
            finally:
                print("finally", flush=True)
        """),
        env={**os.environ, "PYTHON_COLORS": "0"},
    )
    terminal.read_until("ready")
    time.sleep(0.3)
    start = time.monotonic()
    terminal.type("\x03")
    text = terminal.read_until("\nKeyboardInterrupt\n")
    outcome = terminal.run.finish()
    assert time.monotonic() - start < 5
    assert outcome.returncode in (130, -signal.SIGINT)
    assert "finally" in text and text.count("\nKeyboardInterrupt\n") == 1, text


def test_suspend_and_resume_at_the_terminal(launch_once):
    """Ctrl-Z stops the script and its shell's job; continued, it goes on."""
    terminal = Terminal(
        launch_once,
        program("""
        def main():
            for i in range(20):
                print("tick", i, flush=True)
                list(futures.map(abs, range(20)))
                time.sleep(0.1)
            return "over"
        """),
    )
    terminal.read_until("tick 2\n")
    terminal.run.signal_group(signal.SIGSTOP)
    time.sleep(0.5)
    terminal.run.signal_group(signal.SIGCONT)
    text = terminal.read_until('"over"\n')
    assert terminal.run.finish().returncode == 0, text
    assert '"over"\n' in text


# ---------------------------------------------------------------------------------------------------------------------
# How it ends
# ---------------------------------------------------------------------------------------------------------------------


def without_numbers(text):
    """Without addresses of objects and numbers of threads, which differ from run to run."""
    return re.sub(r"0x[0-9a-f]+|Thread-\d+", "", text)


ENDINGS = {
    "end of file": "x = 1",
    "exit": "import sys; sys.exit()",
    "exit None": "import sys; sys.exit(None)",
    "exit 0": "import sys; sys.exit(0)",
    "exit 3": "import sys; sys.exit(3)",
    "exit 255": "import sys; sys.exit(255)",
    "exit 263": "import sys; sys.exit(263)",
    "exit -1": "import sys; sys.exit(-1)",
    "exit True": "import sys; sys.exit(True)",
    "exit text": "import sys; sys.exit('that was it')",
    "exit object": "import sys; sys.exit(['an', 'object'])",
    "raise SystemExit": "raise SystemExit(4)",
    "exit from deep inside": "import sys\ndef f(n):\n    return f(n - 1) if n else sys.exit(9)\nf(20)\n",
    "exit, finally": "import sys\ntry:\n    sys.exit(5)\nfinally:\n    print('finally')\n",
    "exit, atexit": "import atexit, sys\natexit.register(print, 'atexit')\nsys.exit(6)\n",
    "exit during the import of a module": "import sys\nexec('sys.exit(8)')",
    "exception, atexit": "import atexit\natexit.register(print, 'atexit')\nprint('before')\n1 / 0\n",
    "own excepthook": "import sys\nsys.excepthook = lambda *a: print('hook', a[0].__name__)\n1 / 0\n",
    "other threads": "import threading as t\nt.Timer(0.2, print, ['late']).start()\n",
    "unraisable": "class A:\n    def __del__(self):\n        1 / 0\nA()\nprint('on')\n",
    "redefined streams": "import io, sys\nsys.stdout = io.StringIO()\nprint('lost')\n",
    "closed stdout": "import sys\nprint('x')\nsys.stdout.flush()\nsys.stdout.close()\n",
    "output at the end": "import sys\nsys.stdout.write('no newline')\nsys.stderr.write('no newline')\n",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_status_and_output_are_those_of_the_script(launch_once, ending):
    script = launch_once.write(ENDINGS[ending])
    ours, plain = launch_once(script), launch_once.plain(script)
    assert (ours.returncode, ours.stdout) == (plain.returncode, plain.stdout)
    assert without_numbers(ours.stderr) == without_numbers(plain.stderr)


@pytest.mark.parametrize("backend", ["own", "loopback"])
@pytest.mark.parametrize("ending", ["end of file", "exit -1", "exit text", "exception, atexit", "other threads"])
def test_a_run_ends_as_ever_where_python_is_told_to_inspect(launch_once, ending, backend):
    """A prompt is to be asked for by `-i`."""
    script = launch_once.write(ENDINGS[ending] + "\n")
    ours = launch_once(script, options=["--backend", backend], env={"PYTHONINSPECT": "1"})
    plain = launch_once.plain(script)
    assert (ours.returncode, ours.stdout) == (plain.returncode, plain.stdout), ours
    assert without_numbers(ours.stderr) == without_numbers(plain.stderr)


def test_status_in_each_combination(launch):
    """After real work, with an object that prints in its finaliser and something registered at the end."""
    script = launch.write(
        program("""
        import atexit

        def main():
            atexit.register(print, "atexit")
            list(futures.map(abs, range(1000)))
            sys.exit(7)
        """)
    )
    outcome = launch(script)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (7, "atexit\n", "")


FAILURES = {
    "plain": "def f(x):\n    return 1 / x\n\n\ndef g():\n    f(0)\n\n\ng()\n",
    "chained": "try:\n    {}['k']\nexcept KeyError as error:\n    raise ValueError('v') from error\n",
    "context": "try:\n    {}['k']\nexcept KeyError:\n    raise ValueError('v')\n",
    "suppressed": "try:\n    {}['k']\nexcept KeyError:\n    raise ValueError('v') from None\n",
    "own class": "class Own(Exception):\n    def __str__(self):\n        return 'own text'\n\n\nraise Own\n",
    "syntax error": "x = 1\nfor in range(3):\n    pass\n",
    "indentation": "if True:\nx = 1\n",
    "syntax error in an import": "import broken\n",
    "missing module": "import no_such_module_anywhere\n",
    "null byte": "x = 1\0\n",
    "null byte in a text": "print(1)\nx = 'a\0b'\nprint(2)\n",
    "not utf-8": "# \xff\n",
    "not utf-8, later": "print(1)\nx = 'abc\n\xff'\n",
    "latin-1": "# coding: latin-1\nprint(ascii('\xff'))\n1 / 0\n",
    "assertion": "assert 1 == 2, 'message'\n",
    "several lines": "print(\n    1,\n    1 /\n    0,\n)\n",
    "from the library": "import json\njson.loads('{')\n",
    "keyboard interrupt": "raise KeyboardInterrupt\n",
    "in a thread": "import threading\nt = threading.Thread(target=lambda: 1 / 0)\nt.start()\nt.join()\n",
}


@pytest.mark.parametrize("failure", FAILURES)
def test_the_traceback_is_the_one_that_python_prints(launch_once, failure):
    script = launch_once.directory / "program.py"
    script.write_text(FAILURES[failure], encoding="latin-1")
    launch_once.write("def broken(:\n", name="broken.py")
    ours, plain = launch_once(script), launch_once.plain(script)
    assert without_numbers(ours.stderr) == without_numbers(plain.stderr)
    assert ours.stdout == plain.stdout
    assert ours.returncode in (plain.returncode, 128 - plain.returncode)


def test_a_script_that_is_not_utf_8_runs_on_all_workers(launch_once):
    """Python reads such a file on its own; the workers that import it do too."""
    source = program("""
        def far(x):
            return [scoop_lite.worker, ascii("\xff"), x]

        def main():
            rows = [away(far, i).result() for i in range(4)]
            return [sorted({rank for rank, _, _ in rows} - {0}) != [], [row[1:] for row in rows]]
    """)
    script = launch_once.directory / "program.py"
    script.write_bytes(b"# coding: latin-1\n" + source.encode("latin-1"))
    assert launch_once(script).facts == [True, [["'\\xff'", i] for i in range(4)]]


def test_tracebacks_of_modules_and_code(launch_once, tmp_path):
    """The frames of `runpy`, which Python itself shows or not depending on its version, are not compared."""
    (tmp_path / "failing.py").write_text("def f():\n    raise ValueError('v')\n\n\nf()\n")
    for words in (["-m", "failing"], ["-c", "def f():\n    raise ValueError('v')\n\n\nf()\n"]):
        ours, plain = launch_once(words), launch_once.plain(words)
        frames = [
            [line for line in text.splitlines() if line.startswith("  File") and "runpy" not in line]
            for text in (ours.stderr, plain.stderr)
        ]
        assert frames[0] == frames[1] and len(frames[0]) == 2
        assert ours.stderr.splitlines()[-1] == plain.stderr.splitlines()[-1] == "ValueError: v"
        assert ours.returncode == plain.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGHUP, signal.SIGUSR1])
def test_death_by_signal_is_passed_on(launch_once, number):
    script = launch_once.write(
        program("""
        def main():
            list(futures.map(abs, range(100)))
            print("before", flush=True)
            os.kill(os.getpid(), int(sys.argv[1]))
            time.sleep(20)
        """)
    )
    outcome = launch_once(script, args=[str(int(number))])
    assert outcome.returncode in (-number, 128 + number), outcome
    assert outcome.stdout == "before\n"
    assert outcome.seconds < 8


@pytest.mark.parametrize("status", [0, 5])
def test_an_origin_that_vanishes_is_a_failure(launch, status):
    """`os._exit` skips all that the end of a script does, so even status 0 is no success."""
    outcome = launch(
        program("""
        def slow(i):
            time.sleep(0.05)

        def main():
            tasks = [futures.submit(slow, i) for i in range(100)]
            time.sleep(0.1)
            os._exit(int(sys.argv[1]))
        """),
        args=[str(status)],
    )
    assert outcome.returncode not in (0, None) and outcome.returncode > 0, outcome
    assert status == 0 or outcome.returncode == status
    assert outcome.seconds < 10


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes
# ---------------------------------------------------------------------------------------------------------------------


def test_a_profiler_of_the_launcher_is_told_what_to_write(tmp_path):
    """It runs a file in a namespace that belongs to no module, so what the script imports would not be this file."""
    path = tmp_path / "scoop_lite.py"
    path.write_bytes(Path(scoop_lite.__file__).read_bytes())
    (tmp_path / "one.py").write_text("from scoop_lite import futures\nprint(list(futures.map(abs, [-1])))\n")
    words = [sys.executable, "-m", "cProfile", str(path), "-n", "2", "one.py"]
    done = subprocess.run(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=30)
    assert done.returncode == 1 and "nothing but Python runs scoop_lite; write -m cProfile" in done.stderr
    words = [sys.executable, str(path), "-n", "2", "-m", "cProfile", "one.py"]
    done = subprocess.run(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=30)
    assert done.returncode == 0 and done.stdout.startswith("[1]\n"), done


COPIES = [("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
          ("mpiexec", "PMI_RANK", "PMI_SIZE")]


@pytest.mark.parametrize("command, rank, size", COPIES)
def test_who_starts_a_launcher_as_programs_of_mpi_are_hears_of_it_once(launch_once, command, rank, size):
    told = launch_once(["-c", "pass"], env={rank: "0", size: "8"})
    assert told.returncode == 0 and told.stderr.startswith(f"scoop_lite: {command} has started 8 of us"), told
    assert len(told.stderr.splitlines()) == 1
    for env in ({rank: "3", size: "8"}, {rank: "0", size: "1"}, {rank: "0"}):
        assert launch_once(["-c", "pass"], env=env).stderr == ""
    assert launch_once(["-q", "-c", "pass"], env={rank: "0", size: "8"}).stderr == ""
    pools = "import scoop_lite\nfor _ in 1, 2:\n    with scoop_lite.Executor(1{}) as p:\n        p.run_on_all(abs, 1)"
    for options, n in (("", 1), (", quiet=True", 0)):
        env = {rank: "0", size: "8", "PYTHONPATH": str(launch_once.file.parent)}
        told = launch_once.run(["-c", pools.format(options)], env=env).finish()
        assert told.returncode == 0 and told.stderr.count(f"scoop_lite: {command} has started 8 of us") == n, told


def test_another_kind_of_python_is_refused_in_a_sentence(tmp_path):
    """PyPy, if it is here; else one that only says so, and through an Executor, too."""
    (tmp_path / "scoop_lite.py").write_bytes(Path(scoop_lite.__file__).read_bytes())
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.implementation.name = 'other'\n")
    found = shutil.which("pypy3")
    launch = ["scoop_lite.py", "-n", "2", "-c", "pass"]
    pool = ["-c", "import scoop_lite\nscoop_lite.Executor(2).submit(abs, 1).result()"]
    for words in [[python, *words] for python in (sys.executable, found) if python for words in (launch, pool)]:
        env = dict(os.environ, PYTHONPATH=str(tmp_path))
        done = subprocess.run(words, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True, timeout=30)
        assert done.returncode != 0 and "other: workers need CPython" in done.stderr.splitlines()[-1], done.stderr


def test_no_script_gives_the_help_page(launch_once):
    bare = launch_once([], n=None)
    asked = launch_once(["--help"], n=None)
    assert bare.returncode in (0, 2) and asked.returncode == 0
    assert asked.stdout == launch_once(["-h"], n=None).stdout
    assert asked.stderr == ""
    assert "usage" in asked.stdout.lower()
    assert asked.stdout.strip() in (bare.stdout + bare.stderr)
    assert max(map(len, asked.stdout.splitlines())) <= 120


MISTAKES = {
    "n zero": (["-n", "0", "program.py"], ["-n"]),
    "n negative": (["-n", "-3", "program.py"], ["-n"]),
    "n no number": (["-n", "many", "program.py"], ["many"]),
    "n empty": (["-n", "", "program.py"], ["-n"]),
    "n missing": (["-n"], ["-n"]),
    "unknown option": (["--frobnicate", "program.py"], ["--frobnicate"]),
    "unknown short option": (["-Z", "program.py"], ["-Z"]),
    "unknown engine": (["--backend", "carrier-pigeon", "program.py"], ["carrier-pigeon"]),
    "unknown strands": (["--strands", "ropes", "program.py"], ["ropes"]),
    "retries negative": (["--retries", "-1", "program.py"], ["--retries"]),
    "seed no number": (["--seed", "x", "program.py"], ["--seed"]),
    "threads zero": (["--threads-per-worker", "0", "program.py"], ["--threads-per-worker"]),
    "nice no number": (["--nice", "very", "program.py"], ["--nice"]),
    "path missing": (["--path", "no/such/place", "program.py"], ["no/such/place"]),
    "prolog missing": (["--prolog", "no/such/prolog", "program.py"], ["no/such/prolog"]),
    "interpreter missing": (["--python-interpreter", "no/such/python", "program.py"], ["no/such/python"]),
    "module missing": (["-m"], ["-m"]),
    "code missing": (["-c"], ["-c"]),
    "program missing": (["-n", "2"], ["no program"]),
    "program and hosts missing": (["--hosts"], ["--hosts"]),
    "hosts missing": (["--hosts", "program.py"], ["--hosts needs a host"]),
    "one file for log and trace": (["--log", "x", "--trace", "./x", "program.py"], ["--log", "--trace"]),
    "tunnel without ssh": (["--tunnel", "--backend", "zmq", "program.py"], ["--tunnel", "--backend zmq"]),
    "plan of a self-check": (["--self-check", "--dry-run"], ["--self-check", "--dry-run"]),
    "heartbeat no number": (["--heartbeat", "nan", "program.py"], ["--heartbeat", "nan"]),
    "heartbeat zero": (["--heartbeat", "0", "program.py"], ["--heartbeat"]),
    "heartbeat as long as the death limit": (["--heartbeat", "5", "program.py"], ["--heartbeat", "--dead-after"]),
    "death limit endless": (["--dead-after", "inf", "program.py"], ["--dead-after", "inf"]),
    "more hosts than there are": (["--min-hosts", "2", "program.py"], ["--min-hosts", "1 host"]),
    "initializer without function": (["--init", "math", "program.py"], ["--init", "math"]),
    "profiles into a file": (["--profile", "program.py/inside", "program.py"], ["program.py/inside"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_sentence(launch_once, mistake):
    launch_once.write("print('never')")
    words, expected = MISTAKES[mistake]
    one_sentence(launch_once(words, n=None), *expected)


def test_a_directory_that_is_gone_is_named(launch_once, tmp_path):
    """As in a batch job whose scratch directory was removed; with --path there is another."""
    script = launch_once.write("print('there')")
    words = ["sh", "-c", 'mkdir "$0" && cd "$0" && rmdir "$0" && exec "$@"', str(tmp_path / "gone"), sys.executable]
    for options in ([], ["--trace", "t.json"]):
        one_sentence(launch_once([*options, script], n=None, python=words), "this directory")
    outcome = launch_once(["-p", tmp_path, script], n=None, python=words)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "there\n", "")


@pytest.mark.parametrize(
    "what", ["missing script", "directory", "missing module", "empty name", "unreadable directory"]
)
def test_a_script_that_is_none(launch_once, tmp_path, what):
    """Our sentence with status 2, or what Python itself says, with its status."""
    (tmp_path / "folder").mkdir()
    words = {
        "missing script": ["nowhere.py"],
        "directory": ["folder"],
        "missing module": ["-m", "no_such_module_anywhere"],
        "empty name": [""],
        "unreadable directory": ["program.py/inside.py"],
    }[what]
    launch_once.write("print('never')")
    ours, plain = launch_once(words), launch_once.plain(words)
    if (ours.returncode, ours.stderr) == (plain.returncode, plain.stderr):
        return
    one_sentence(ours, words[-1], status=ours.returncode)
    assert ours.returncode in (2, plain.returncode)


@pytest.mark.parametrize("option, package", [("--backend=zmq", "pyzmq"), ("--strands=greenlet", "greenlet")])
def test_a_missing_package_is_named(launch_once, option, package):
    launch_once.write("print('never')")
    python = [sys.executable, "-I", "-S"]
    one_sentence(launch_once(["program.py"], options=[option], python=python), package)


def test_a_directory_or_archive_with_a_main_program(launch_once, tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text(MIRROR)
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "app")
    for words in (["app"], ["packed.zip"]):
        ours, plain = launch_once(words), launch_once.plain(words)
        if ours.returncode == 2:
            one_sentence(ours, words[0])
        else:
            expect_the_same(ours, plain)


def test_a_program_in_an_archive_may_have_an_executor(launch_once, tmp_path):
    """The workers of that one import the program as those of ours do."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text(program("""
        def square(x):
            return x * x

        def main():
            with scoop_lite.Executor(2) as pool:
                return list(pool.map(square, range(3)))
    """))  # fmt: skip
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "app")
    for word in ("app", "packed.zip"):
        assert launch_once([word]).facts == [0, 1, 4]


# ---------------------------------------------------------------------------------------------------------------------
# Other ways to start
# ---------------------------------------------------------------------------------------------------------------------

SQUARES = """
    import os
    from scoop_lite import futures

    def square(x):
        return x * x

    if __name__ == "__main__":
        print(list(futures.map(square, range(10))))
"""
SQUARED = f"{[x * x for x in range(10)]}\n"


def test_without_the_launcher_all_runs_serially_after_one_warning(launch_once):
    outcome = launch_once.serial(
        """
        import operator, os, threading
        from scoop_lite import futures, shared
        import scoop_lite

        def fail():
            raise LookupError("own")

        def pid(_):
            return os.getpid()

        def fib(n):
            return n if n < 2 else futures.submit(fib, n - 1).result() + futures.submit(fib, n - 2).result()

        def main():
            task = futures.submit(pow, 2, 10)
            task.add_done_callback(lambda f: print("called back", f.result()))
            print(task.result(), task.done(), task.exception())
            print(set(futures.map(pid, range(20))) == {os.getpid()})
            print(sorted(futures.map_as_completed(abs, [-3, 1])), len(list(futures.as_completed([task]))))
            print(futures.wait([task]).done == {task})
            print(futures.mapReduce(str, operator.add, range(5)), list(futures.mapScan(str, operator.add, range(3))))
            print(fib(12), futures.submit(lambda x: x + 1, 1).result())
            try:
                futures.submit(fail).result()
            except LookupError as error:
                print("LookupError", error)
            endless = futures.map(abs, iter(int, 1))
            print(next(endless), next(endless))
            print(futures.submit(type, threading.Lock()).result().__name__)
            print(scoop_lite.IS_RUNNING, scoop_lite.SIZE)

        if __name__ == "__main__":
            main()
    """
    )
    assert outcome.returncode == 0, outcome
    assert outcome.stdout.splitlines() == [
        "called back 1024", "1024 True None", "True", "[1, 3] 1", "True", "01234 ['0', '01', '012']", "144 2",
        "LookupError own", "0 0", "lock", "False 1",
    ]  # fmt: skip
    warnings = [line for line in outcome.stderr.splitlines() if not line.startswith("  ")]
    assert len(warnings) == 1 and "scoop_lite" in warnings[0] and "program.py" in warnings[0], outcome


@pytest.mark.parametrize("end", ["", "raise LookupError('own')", "sys.exit(0)"])
@pytest.mark.parametrize("launched", [True, False], ids=["launched", "alone"])
def test_what_a_script_has_submitted_is_run_at_its_end(launch_once, launched, end):
    """With and without the launcher: unless an exception ended it."""
    source = f"""
        import sys
        from scoop_lite import futures

        def say(n):
            if n > 0:
                futures.submit(say, n - 1).result()
            print("said", n)

        def fail():
            raise ValueError("nobody looks at this")

        if __name__ == "__main__":
            futures.submit(say, 2)
            futures.submit(fail)
            futures.submit(say, -1)
            print("the end")
            {end}
    """
    outcome = launch_once(source) if launched else launch_once.serial(source)
    assert outcome.returncode == ("raise" in end)
    said = [] if "raise" in end else ["said 0", "said 1", "said 2", "said -1"]
    assert sorted(outcome.stdout.splitlines()) == sorted(["the end", *said]), outcome
    assert outcome.stderr.count("ValueError: nobody looks at this") == (not end.startswith("raise")), outcome


def test_an_interrupt_at_the_end_of_a_script_without_the_launcher(launch_once):
    """It ends what was submitted, and the process, by that signal."""
    script = launch_once.write("""
        import time
        from scoop_lite import futures

        def nap():
            try:
                print("begun", flush=True)
                time.sleep(60)
            finally:
                print("cleaned up", flush=True)

        if __name__ == "__main__":
            futures.submit(nap)
            futures.submit(print, "never")
    """)
    run = launch_once.run(["-W", "ignore", script], env={"PYTHONPATH": str(launch_once.file.parent)})
    run.wait_for("begun")
    run.process.send_signal(signal.SIGINT)
    outcome = run.finish()
    assert (outcome.returncode, outcome.stdout) == (-signal.SIGINT, "begun\ncleaned up\n"), outcome
    assert outcome.stderr.endswith("KeyboardInterrupt\n")


def test_a_deadlock_at_the_end_of_a_script_without_the_launcher_is_no_success(launch_once):
    outcome = launch_once.serial("""
        import atexit
        from scoop_lite import futures

        made = []

        def first():
            return made[1].result()

        def second():
            return made[0].result()

        if __name__ == "__main__":
            atexit.register(print, "exit function")
            made += futures.submit(first), futures.submit(second)
    """)
    assert (outcome.returncode, outcome.stdout) == (1, "exit function\n"), outcome
    assert "(deadlock)" in outcome.stderr.splitlines()[-1], outcome


@pytest.mark.parametrize("call", [
    "futures.submit(abs, -1)", "list(futures.map(abs, [-1]))", "futures.mapScan(abs, max, [-1])",
    "futures.map_as_completed(abs, [-1])", "shared.setConst(a=1)", "futures.task_seed()",
])  # fmt: skip
def test_the_warning_shows_the_users_own_line(launch_once, call):
    outcome = launch_once.serial(f"""
        from scoop_lite import futures, shared

        {call}  # this line
    """)
    assert "program.py:4: RuntimeWarning: scoop_lite runs everything serially" in outcome.stderr, outcome
    assert f"{call}  # this line" in outcome.stderr


def test_serial_results_equal_parallel_ones(launch_once):
    source = program("""
        def draw(i):
            return (i * 7919) % 104729

        def term(i):
            return 1.0 / (i + 1)

        def main():
            return [list(futures.map(draw, range(100))), futures.mapReduce(term, operator.add, range(1000)).hex(),
                    [x.hex() for x in futures.mapScan(term, operator.add, range(50))]]
    """)
    assert launch_once.serial(source).facts == launch_once(source, n=3).facts


def test_an_import_alone_warns_of_nothing(launch_once):
    outcome = launch_once.serial("from scoop_lite import futures, shared\nprint('fine')\n")
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "fine\n", "")


def test_as_a_module(launch_once):
    script = launch_once.write(SQUARES)
    words = ["-m", "scoop_lite", "-n", "2", str(script), "-n"]
    for how in ({"cwd": launch_once.file.parent}, {"env": {"PYTHONPATH": str(launch_once.file.parent)}}):
        outcome = launch_once.run(words, **how).finish()
        assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, SQUARED, "")


def test_the_installed_command(launch_once):
    command = shutil.which("scoop-lite", path=os.path.dirname(sys.executable))
    if command is None:
        pytest.skip("scoop-lite is not installed in this Python")
    script = launch_once.write(SQUARES)
    outcome = launch_once.run(["-n", "2", script], python=[command]).finish()
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, SQUARED, "")


@pytest.mark.parametrize("imported", ["scoop_lite", "my_pool"])
def test_a_copy_with_another_name(launch_once, tmp_path, imported):
    """The script may import it by its new name or by its own; there is one module, not two."""
    copy = shutil.copy(launch_once.file, tmp_path / "my_pool.py")
    script = launch_once.write(SQUARES.replace("scoop_lite", imported))
    for words in ([copy, "-n", "2", script], ["-m", "my_pool", "-n", "2", str(script)]):
        outcome = launch_once.run(words).finish()
        assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, SQUARED, "")


def test_a_copy_of_another_version_stays_what_it_is(launch_once, tmp_path):
    text = re.sub(r'^(__version__ = ).*', r'\1"0.0.1"', launch_once.file.read_text(encoding="utf-8"), flags=re.M)
    (tmp_path / "other.py").write_text(text, encoding="utf-8")
    outcome = launch_once("import other; print(other.__version__)", n=1)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "0.0.1\n", "")


def test_a_copy_without_suffix(launch_once, tmp_path):
    copy = shutil.copy(launch_once.file, tmp_path / "my pool")
    script = launch_once.write(SQUARES)
    outcome = launch_once.run([copy, "-n", "2", script]).finish()
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, SQUARED, "")


# ---------------------------------------------------------------------------------------------------------------------
# Options
# ---------------------------------------------------------------------------------------------------------------------

EVERYWHERE = """
    def main():
        rows = []
        limit = time.monotonic() + 10
        while len({row[0] for row in rows}) < scoop_lite.SIZE and time.monotonic() < limit:
            rows += futures.map(where, range(20 * scoop_lite.SIZE))
        return {str(pid): list(facts) for pid, *facts in rows}
"""


def everywhere(facts, expression, **how):
    """The value of an expression in each worker: the origin's, and the set of the others'."""
    rows = facts(
        f"""
    def where(_):
        time.sleep(0.003)
        return [os.getpid(), scoop_lite.IS_ORIGIN, {expression}]
    """
        + EVERYWHERE,
        **how,
    )
    others = {json.dumps(value) for is_origin, value in rows.values() if not is_origin}
    origins = [value for is_origin, value in rows.values() if is_origin]
    assert len(origins) == 1
    return origins[0], [json.loads(value) for value in others]


def test_number_of_workers(facts_once):
    source = "    def main():\n        return [scoop_lite.SIZE, len(os.sched_getaffinity(0))]\n"
    size, cpus = facts_once(source, n=None)
    assert 1 <= size <= cpus
    assert facts_once(source, n=None, options=["-n", "3"])[0] == 3
    assert facts_once(source, n=None, options=["-n3"])[0] == 3
    one = min(os.sched_getaffinity(0))
    assert facts_once(source, n=None, preexec_fn=lambda: os.sched_setaffinity(0, {one})) == [1, 1]


def test_many_workers(facts_once):
    got = facts_once("""
        def main():
            return [scoop_lite.SIZE, sum(futures.map(abs, range(1000)))]
    """, n=24)  # fmt: skip
    assert got == [24, 499500]


def test_version_and_hash_are_those_of_the_file(launch_once):
    """The second line is what `sha256sum --check` reads."""
    outcome = launch_once(["--version"], n=None)
    source = launch_once.file.read_bytes()
    version = re.search(rb'^__version__ = "([^"]+)"', source, re.M).group(1).decode()
    expected = f"scoop_lite {version}\n{hashlib.sha256(source).hexdigest()}  {launch_once.file}\n"
    assert (outcome.returncode, outcome.stderr, outcome.stdout) == (0, "", expected)
    odd = launch_once.directory / "a line\nand \\ another"
    odd.mkdir()
    shutil.copy(launch_once.file, odd)
    said = launch_once.run([odd / "scoop_lite.py", "--version"]).finish().stdout_bytes.split(b"\n", 1)[1]
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "--status"], input=said, check=True)


def test_a_frozen_launcher_says_that_it_lacks_the_source(launch_once):
    code = "import sys, scoop_lite; scoop_lite.__file__ = '/nowhere/scoop_lite.py'; scoop_lite.main(sys.argv[1:])"
    for words, status in ((["--version"], 0), (["--python-interpreter", sys.executable, "-c", "pass"], 2)):
        outcome = launch_once.serial(["-c", code, *words])
        assert outcome.returncode == status and "Traceback" not in outcome.stderr, outcome
        assert "/nowhere/scoop_lite.py is not there" in outcome.stdout + outcome.stderr


def self_check(launch_once, *words, **how):
    """Verdicts, texts and status of `--self-check`."""
    outcome = launch_once(["--self-check", *words], n=None, **how)
    assert outcome.stderr == ""
    lines = outcome.stdout.replace("\n" + 8 * " ", " ").splitlines()
    rows = [(line[:8].rstrip(), line[8:]) for line in lines[2:-1]]
    assert {verdict for verdict, _ in rows} <= {"ok", "missing", "low", "FAILED"}, outcome
    assert (outcome.returncode, any(verdict == "FAILED" for verdict, _ in rows)) in ((0, False), (1, True)), outcome
    return rows, outcome


def test_self_check_tries_each_engine_and_kind_of_strand(launch_once):
    rows, outcome = self_check(launch_once, "-n", "3")
    zmq, greenlet = (importlib.util.find_spec(name) for name in ("zmq", "greenlet"))
    jobs = [text.split(":")[0] for verdict, text in rows if verdict == "ok" and text.startswith("a job with")]
    engines, kinds = ["own", "zmq"][: 1 + bool(zmq)], ["thread", "greenlet"][: 1 + bool(greenlet)]
    assert jobs == [f"a job with --backend {engine} --strands {kind}" for engine in engines for kind in kinds]
    assert outcome.stdout.endswith("scoop_lite: all that must work does\n") and outcome.returncode == 0
    (files,) = [text for _, text in rows if text.startswith("open files")]
    assert "3 workers here" in files


@pytest.mark.parametrize("hosts", [[], ["--launcher", "env H={host} sh -c", "--hosts", "localhost:1", "far:1"]])
def test_self_check_runs_nothing_that_lies_in_the_current_directory(launch_once, hosts):
    """Where others may write, as in /tmp: here, what a module of the standard library imports at its first use."""
    launch_once.write("raise SystemExit('planted')", "dis.py")
    rows, outcome = self_check(launch_once, "--backend", "own", *hosts)
    assert outcome.returncode == 0 and not (launch_once.directory / "__pycache__").exists(), outcome


def test_a_host_keeps_its_own_search_path(launch_once):
    """What start-up files or a prolog set, all of it: an interpreter begun for us has no entry of ours to replace."""
    launcher = "env H={host} PYTHONPATH=/first:/second sh -c"
    outcome = launch_once("""
        import sys
        from scoop_lite import futures
        def look():
            return sys.path[:3]
        if __name__ == "__main__":
            print(futures.run_on_all(look)[1] == [sys.path[0], "/first", "/second"])
    """, n=None, options=["--launcher", launcher, "--hosts", "localhost:1", "far:1"])  # fmt: skip
    assert outcome.stdout == "True\n", outcome


def test_self_check_says_what_is_missing_and_goes_on(launch_once):
    """`-S`: no installed package is found; the jobs run with the same Python."""
    rows, outcome = self_check(launch_once, "--ssh-executable", "no-such-ssh", python=(sys.executable, "-S"))
    missing = [text.split(":")[0] for verdict, text in rows if verdict == "missing"]
    assert missing == ["pyzmq is not installed", "greenlet is not installed", "no-such-ssh"]
    jobs = [text for verdict, text in rows if text.startswith("a job with")]
    assert len(jobs) == 1 and "--backend own --strands thread" in jobs[0] and outcome.returncode == 0


@pytest.mark.parametrize("words, python, said", [
    (["--backend", "zmq"], (sys.executable, "-S"), "needs pyzmq"),
    (["--hosts", "node1", "--ssh-executable", "no-such-ssh"], (sys.executable,), "no-such-ssh"),
    (["--init", "no_such_module:main", "--strands", "thread", "--backend", "own"], (sys.executable,), "no_such_module"),
], ids=["engine", "host", "initializer"])  # fmt: skip
def test_self_check_fails_when_what_was_asked_for_does_not_work(launch_once, words, python, said):
    rows, outcome = self_check(launch_once, *words, python=python)
    failed = [text for verdict, text in rows if verdict == "FAILED"]
    assert failed and all(text.startswith("a job with") and said in text for text in failed)
    assert outcome.stdout.endswith(f"scoop_lite: {len(failed)} failed\n") and outcome.returncode == 1


def test_self_check_fails_where_too_few_files_may_be_open(launch_once):
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    rows, outcome = self_check(launch_once, "-n", "12", "--backend", "own", "--strands", "thread", preexec_fn=limit)
    files, job = [text for verdict, text in rows if verdict == "FAILED"]
    assert files.startswith("open files: 40 allowed; 12 workers here take about") and outcome.returncode == 1
    assert "Too many open files" in job


@pytest.mark.parametrize("first", ["far", "localhost"])
def test_self_check_says_which_hosts_lack_greenlet_and_fails_if_that_was_asked_for(launch_once, tmp_path, first):
    """In a sentence, without a traceback of ours: runs do without, also where one host has it."""
    pytest.importorskip("greenlet")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "greenlet.py").write_text("raise ImportError")
    hosts = ["--backend", "own", "--hosts", first, {"far": "localhost:1", "localhost": "far:1"}[first], "--launcher",
             f"env H={{host}} PYTHONPATH={tmp_path / 'bare'} sh -c"]  # fmt: skip
    rows, outcome = self_check(launch_once, *hosts)
    lacking = [(verdict, text) for verdict, text in rows if "greenlet cannot be imported" in text]
    assert [verdict for verdict, _ in lacking] == ["missing"] and " on far: " in lacking[0][1]
    assert "Traceback" not in outcome.stdout and outcome.returncode == 0, outcome
    rows, outcome = self_check(launch_once, *hosts, "--strands", "greenlet")
    assert [verdict for verdict, text in rows if "greenlet cannot be imported" in text] == ["FAILED"]


def test_self_check_takes_no_program(launch_once):
    outcome = launch_once(["--self-check", "program.py"], n=None)
    assert (outcome.returncode, outcome.stdout) == (2, "") and "its own program" in outcome.stderr


@pytest.mark.parametrize("name", ["own", "auto", "TCP", "tcp", "zmq", "ZMQ"])
def test_backend(launch_once, name):
    if name.lower() == "zmq":
        pytest.importorskip("zmq")
    outcome = launch_once(SQUARES, options=["--backend", name])
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, SQUARED, "")


@pytest.mark.parametrize("name", ["greenlet", "thread", "auto"])
def test_strands(launch_once, name):
    if name == "greenlet":
        pytest.importorskip("greenlet")
    outcome = launch_once(SQUARES, options=["--strands", name])
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, SQUARED, "")


def test_verbose_and_quiet(launch_once):
    """And with `-v` twice, `scoop_lite.DEBUG` is true."""
    said = {}
    for options in ((), ("-v",), ("--verbose",), ("-vv",), ("-v", "-v"), ("-q",), ("--quiet",)):
        outcome = launch_once(SQUARES + "        import scoop_lite; print(scoop_lite.DEBUG)\n", options=options)
        debug = "".join(options).count("v") == 2
        assert (outcome.returncode, outcome.stdout) == (0, f"{SQUARED}{debug}\n"), options
        said["".join(options)] = len(outcome.stderr.splitlines())
    assert said[""] == said["-q"] == said["--quiet"] == 0
    assert 0 < said["-v"] <= said["-vv"] and said["--verbose"] > 0
    assert said["-vv"] > said["-v"] and said["-v-v"] > said["-v"]


@pytest.mark.parametrize("words, said", [
    (["-n", "2", "-c", "import os; os._exit(0)"], "the origin (pid "),
    (["-n", "2", "-c", "import os; os.kill(os.getpid(), 9)"], "the origin (pid "),
    (["--hosts", "localhost:1", "a:1", "--launcher", "false {host}", "-c", "pass"], "host a did not join: "),
])  # fmt: skip
def test_quiet_hides_no_reason_for_which_a_run_fails(launch_once, words, said):
    outcome = launch_once(["-q", *words])
    assert outcome.returncode not in (0, None) and outcome.stdout == ""
    assert outcome.stderr.startswith(f"scoop_lite: {said}") and outcome.stderr.count("\n") == 1, outcome


def test_a_needless_option_of_scoop_is_accepted_with_a_sentence(launch_once):
    outcome = launch_once(SQUARES, options=["--tunnel"])
    assert (outcome.returncode, outcome.stdout) == (0, SQUARED)
    assert len(outcome.stderr.splitlines()) == 1 and "--tunnel" in outcome.stderr
    assert launch_once(SQUARES, options=["--tunnel", "-q"]).stderr == ""


def test_seed(launch_once):
    source = program("""
        def draw(_):
            return futures.task_rng().random()

        def main():
            return list(futures.map(draw, range(10)))
    """)
    first, again, other = (launch_once(source, options=["--seed", seed]).facts for seed in ("5", "5", "6"))
    assert first == again != other


def test_nice(facts_once):
    base = os.nice(0)
    if base > 10:
        pytest.skip("this process is already very nice")
    origin, others = everywhere(facts_once, "os.nice(0)", options=["--nice", "5"])
    assert others == [base + 5]
    assert origin in (base, base + 5)


def test_lists_among_an_executors_options_become_a_word_for_each_item():
    words = scoop_lite.option_words(hosts=["a", "n[1,3]:2"], env=("A", "B"), retries=0, quiet=True, check=False)
    assert words == ["--hosts=a", "--hosts=n[1,3]:2", "--env=A", "--env=B", "--retries=0", "--quiet"]


def test_fresh_interpreters_give_a_text_the_same_hash(launch_once):
    source = program("""
        def main():
            everywhere = futures.run_on_all(lambda: [hash("a text"), os.environ.get("PYTHONHASHSEED")])
            return [len(everywhere), *everywhere.values()]
    """)
    outcome = launch_once(source, options=["-n", "3", "--backend", "loopback"])
    n, first, *others = outcome.facts
    assert n == 3 and others == [first] * 2 and first[1] == os.environ.get("PYTHONHASHSEED")


@pytest.mark.parametrize("backend", ["own", "loopback"])
def test_a_worker_that_cannot_begin_says_why_and_no_other_is_started(launch_once, backend):
    outcome = launch_once("print('never')", options=["-n", "3", "--nice", "9" * 11, "--backend", backend])
    assert outcome.returncode == 1 and outcome.stdout == ""
    why, *deaths, end = outcome.stderr.splitlines()
    assert re.fullmatch(r"scoop_lite: worker \d on \S+: it cannot begin: --nice 9{11}: .*(large|big|long).*", why)
    assert all(re.search("^scoop_lite: worker .* exited with status 1; .* left", death) for death in deaths)
    assert re.fullmatch(r"scoop_lite: the origin \(pid \d+\) exited with status 1 before its script had ended", end)


def test_a_worker_that_has_closed_its_link_and_lives_on_is_ended(launch_once):
    source = program("""
        def close_all(number):
            if scoop_lite.worker and not os.path.exists("closed"):
                os.mkdir("closed")
                os.closerange(3, 1000)
                time.sleep(30)
            time.sleep(0.02)
            return number

        def main():
            return sum(futures.map(close_all, range(50)))
    """)
    outcome = launch_once(source, options=["-n", "2"])
    assert (outcome.returncode, outcome.facts) == (0, sum(range(50)))
    assert "worker 1 has closed its link, and lives on: it is ended" in outcome.stderr


def test_path(facts_once, tmp_path):
    """The directory that the workers run in."""
    (tmp_path / "down").mkdir()
    _, others = everywhere(facts_once, "os.getcwd()", options=["--path", str(tmp_path / "down")])
    assert others == [os.path.realpath(tmp_path / "down")]
    origin, others = everywhere(facts_once, "os.getcwd()")
    assert [origin] == others == [os.path.realpath(tmp_path)]


def test_pythonpath(facts_once, tmp_path):
    """Given several times, as --host and --env may be, it adds up."""
    options = []
    for name in ("asidemodule", "colorsys"):  # the second goes before what Python has
        (tmp_path / f"beside {name}").mkdir()
        (tmp_path / f"beside {name}" / f"{name}.py").write_text("VALUE = 'found'\n")
        options += ["--pythonpath", str(tmp_path / f"beside {name}")]
    values = '[getattr(__import__(name), "VALUE", "another") for name in ("asidemodule", "colorsys")]'
    origin, others = everywhere(facts_once, values, options=options)
    assert [origin] == others == [["found", "found"]]


def test_prolog(facts_once, tmp_path):
    """A shell script that each worker starts from, with what it exports."""
    prolog = tmp_path / "prolog.sh"
    prolog.write_text('echo "$$" >> "$LEDGER"\nexport FROM_PROLOG="it ran"\n')
    prolog.chmod(0o755)
    _, others = everywhere(facts_once, 'os.environ.get("FROM_PROLOG")', options=["--prolog", str(prolog)])
    assert others == ["it ran"]


def test_a_prolog_that_fails(launch_once, tmp_path):
    prolog = tmp_path / "prolog.sh"
    prolog.write_text("exit 3\n")
    prolog.chmod(0o755)
    outcome = launch_once(SQUARES, options=["--prolog", str(prolog)])
    assert outcome.returncode != 0
    assert "prolog" in outcome.stderr and "Traceback" not in outcome.stderr


@pytest.mark.parametrize("name", ["other-python", "a=b/python"])
def test_python_interpreter(launch_once, tmp_path, name):
    """Workers are started with it; here, one that leaves a trace."""
    wrapper = tmp_path / name
    wrapper.parent.mkdir(exist_ok=True)
    wrapper.write_text(f'#!/bin/sh\necho started >> "$LEDGER"\nexport THROUGH=wrapper\nexec "{sys.executable}" "$@"\n')
    wrapper.chmod(0o755)
    source = program("""
        def where(_):
            time.sleep(0.01)
            return os.environ.get("THROUGH")

        def main():
            return sorted(set(map(str, futures.map(where, range(60)))))
    """)
    outcome = launch_once(source, options=["--python-interpreter", str(wrapper)])
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "wrapper" in outcome.facts
    assert launch_once.ledger["started"] >= 1


THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
           "VECLIB_MAXIMUM_THREADS", "BLIS_NUM_THREADS")  # fmt: skip


def test_threads_per_worker(facts_once):
    expression = f"[os.environ.get(name) for name in {THREADS}]"
    share = str(max(1, len(os.sched_getaffinity(0)) // 2))
    for options, env, expected in (
        ([], {}, [share] * 6),
        (["--threads-per-worker", "3"], {"VECLIB_MAXIMUM_THREADS": "5"}, [*["3"] * 4, "5", "3"]),
        ([], {"OMP_NUM_THREADS": "11"}, ["11", *[share] * 5]),
    ):
        origin, others = everywhere(facts_once, expression, options=options, env=env)
        assert [origin] == others == [expected], (options, env)


@pytest.mark.parametrize("option", ["--trace", "--log"])
def test_files_are_written_when_the_run_begins_and_not_for_a_plan(launch_once, tmp_path, option):
    """What is there already outlives a mistake and --dry-run; what is no file is not tried out with zeros."""
    for words in (["--dry-run"], ["--launcher", "nothing"], ["--heartbeat", "9"]):
        (tmp_path / "old").write_text("old")
        launch_once("", options=[option, "old", *words])
        assert (tmp_path / "old").read_text() == "old"
        launch_once("", options=[option, "new", "--profile", "profiles", "--dry-run"])
        assert not (tmp_path / "new").exists() and not (tmp_path / "profiles").exists()
    (tmp_path / "old").write_text("\0" * 100_000)
    for place in ("/dev/null", "/dev/stdout", "old"):
        outcome = launch_once("import scoop_lite; scoop_lite.logger.error('hm')", options=[option, place])
        assert (outcome.returncode, bool(outcome.stdout)) == (0, place == "/dev/stdout"), outcome
        assert "\0" not in outcome.stdout
    assert re.fullmatch(r"[^\0]+", (tmp_path / "old").read_text()), "what was longer is replaced whole"


def test_an_option_whose_value_is_a_file_may_precede_the_hosts(launch_once, tmp_path):
    """Else the second run of the same command would take the trace of the first for the program."""
    launch_once.write(SQUARES)
    words = ["--trace", "old", "--python-interpreter", sys.executable, "--hosts", "localhost", "localhost:1"]
    for _ in range(2):
        outcome = launch_once([*words, "program.py"], n=None)
        assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, SQUARED, "")


@pytest.mark.parametrize("planted", ["localhost", "localhost/__main__.py"])
def test_what_is_named_like_a_host_is_not_run_in_the_programs_place(launch_once, planted):
    """A log of that host, or what somebody else has put into a directory where others may write."""
    launch_once.write(SQUARES)
    (launch_once.directory / planted).parent.mkdir(exist_ok=True)
    launch_once.write("print('planted')", planted)
    outcome = launch_once(["--hosts", "localhost", "localhost:1", "program.py"], n=None)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, SQUARED, "")
    one_sentence(launch_once(["--hosts", "localhost", "localhost"], n=None), "'localhost'", "--hosts=")
    one_sentence(launch_once(["--hosts", "node1", "localhost", "program.py"], n=None), "'localhost'", "--hosts=")
    pool = """
        import scoop_lite
        if __name__ == "__main__":
            with scoop_lite.Executor(hosts=["localhost"]) as pool:
                print(pool.submit(abs, -3).result())
    """
    assert launch_once.serial(pool).stdout == "3\n"


def test_profiles_go_neither_into_a_program_nor_through_a_link(launch_once, tmp_path):
    launch_once.write(SQUARES)
    (tmp_path / "prof").mkdir()
    launch_once.write("print('planted')", "prof/__main__.py")
    (tmp_path / "mine").write_text("thesis")
    for rank in range(2):
        (tmp_path / f"prof/worker-{rank}.prof").symlink_to(tmp_path / "mine")
    for _ in range(2):
        outcome = launch_once(["--profile", "prof", "program.py"])
        assert (outcome.returncode, outcome.stdout) == (0, SQUARED), outcome
    assert (tmp_path / "mine").read_text() == "thesis"
    assert pstats.Stats(str(tmp_path / "prof/worker-0.prof")).stats


@pytest.mark.parametrize("words, directory", [
    (["prof", "./prog", "data.py"], "prof"), (["prof", "prog"], "prof"), (["out/prof", "prog"], "out/prof"),
    (["prog", "prof"], "."), (["./prog"], "."), (["program.py", "prof"], "."), (["planted", "program.py"], "planted"),
])  # fmt: skip
def test_what_follows_profile_is_a_directory_or_the_program(launch_once, tmp_path, words, directory):
    for name in "prog", "program.py":
        launch_once.write(SQUARES, name)
    (tmp_path / "planted").mkdir()
    launch_once.write("print('planted')", "planted/__main__.py")
    outcome = launch_once(["--profile", *words])
    assert (outcome.returncode, outcome.stdout) == (0, SQUARED), outcome
    assert (tmp_path / directory / "worker-0.prof").exists()


def test_sentences_cannot_steer_the_terminal(launch_once, tmp_path):
    """Neither by what a host says before it fails, nor by what the environment holds."""
    host = tmp_path / "host"
    host.write_text("#!/bin/sh\nprintf '\\033]0;owned\\007\\n'; printf '\\033[2J' >&2; exit 3\n")
    host.chmod(0o755)
    launch_once.write("print('never')")
    outcome = launch_once(["--launcher", f"{host} {{host}}", "--hosts", "localhost:1", "far:1", "program.py"], n=None)
    assert outcome.returncode == 1 and "owned" in outcome.stderr and "\x1b" not in outcome.stderr, outcome
    environment = {"PBS_NODEFILE": "/\x1b[2J/nowhere", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "\x1b[2J"}
    outcome = launch_once(["program.py"], n=None, env=environment)
    assert outcome.returncode == 2 and "nowhere" in outcome.stderr and "\x1b" not in outcome.stderr, outcome


@pytest.mark.parametrize("who", ["scoop_lite.IS_ORIGIN", "not scoop_lite.IS_ORIGIN"])
def test_a_profile_that_cannot_be_written_is_told(launch_once, who):
    """In the script's own worker, that is a failure; of others, the results are there."""
    outcome = launch_once(program(f"""
        def limit():
            import resource
            if {who}:
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

        def main():
            return len(futures.run_on_all(limit))
    """).replace("import sys", "import sys, scoop_lite", 1), options=["--profile"])
    assert "cannot write" in outcome.stderr and ".prof: File too large" in outcome.stderr, outcome
    assert "Traceback" not in outcome.stderr and outcome.returncode == ("not" not in who)


@pytest.mark.parametrize("with_directory", [True, False], ids=["DIR", "default"])
def test_profile(launch_once, tmp_path, with_directory):
    (tmp_path / "empty").mkdir()
    option = f"--profile={tmp_path / 'profiles'}" if with_directory else "--profile"
    source = program("""
        def recognisable(i):
            time.sleep(0.002)
            return i

        def main():
            return sum(futures.map(recognisable, range(100)))
    """)
    script = launch_once.write(source)
    outcome = launch_once([script], options=["-n", "2", option], n=None, cwd=tmp_path / "empty")
    assert (outcome.returncode, outcome.facts) == (0, 4950)
    place = tmp_path / "profiles" if with_directory else tmp_path / "empty"
    files = [path for path in place.rglob("*") if path.is_file()]
    assert len(files) == 2, "one for each worker"
    for path in files:
        functions = {name for _, _, name in pstats.Stats(str(path)).stats}
        assert "recognisable" in functions


@pytest.mark.parametrize("n, options", [(2, []), (4, ["--max-tasks-per-child", "3"])], ids=["", "replaced"])
def test_profiles_have_every_task_whatever_strand_and_process_ran_it(launch, tmp_path, n, options):
    source = program("""
        def inner(i):
            time.sleep(0.005)
            return os.getpid()

        def outer(i):
            return set(futures.map(inner, range(5)))

        def main():
            rounds, pids = 0, set()
            while len(pids) < int(sys.argv[1]):
                rounds += 1
                pids.update(*futures.map(outer, range(6)))
            return rounds
    """)
    outcome = launch(source, args=[str(n)], options=["--profile", tmp_path / "profiles", *options])
    assert outcome.returncode == 0, outcome
    total = pstats.Stats(*map(str, (tmp_path / "profiles").iterdir()))
    counts = {name: calls for (_, _, name), (_, calls, *_) in total.stats.items()}
    # At least: what seems to be left on the stack at the end, cProfile counts again, and greenlets confuse it there.
    assert counts["inner"] >= 30 * outcome.facts and counts["outer"] >= 6 * outcome.facts
    names = {path.name for path in (tmp_path / "profiles").iterdir()}
    assert names >= {"worker-0.prof", "worker-1.prof"} and ("worker-1-2.prof" in names) == bool(options)


def test_retries(launch_once):
    """With `--retries 0`, the first death of a worker fails the task that it ran."""
    got = launch_once(
        program("""
        def die():
            record("ran")
            os.kill(os.getpid(), signal.SIGKILL)

        def main():
            future = away(die)
            error = future.exception(timeout=10)
            return [type(error).__name__, isinstance(error, scoop_lite.WorkerLost), str(error)]
        """),
        options=["--retries", "0"],
    )
    assert got.returncode == 0, got
    name, lost, text = got.facts
    assert (name, lost) == ("WorkerLost", True)
    assert "die" in text
    assert launch_once.ledger == {"ran": 1}


def test_options_may_be_written_in_each_way(launch_once):
    for options in (["--backend=own", "--strands=thread", "-n2"], ["-qn2"], ["-n", "2", "--threads-per-worker=1"]):
        outcome = launch_once(SQUARES, n=None, options=options)
        assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, SQUARED, "")


def test_each_option_on_the_help_page_is_tested(launch_once):
    page = launch_once(["--help"], n=None).stdout
    offered = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", page))
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(CHECKOUT, "tests").rglob("*.py"))
    untested = sorted(option for option in offered if not re.search(rf"(?<![\w-]){option}(?![\w-])", tests))
    assert offered >= {"-n", "--backend", "--strands", "--retries", "--seed", "--profile", "--version", "-m", "-c"}
    assert untested == []


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp850", "cp932"])
def test_help_can_be_printed_in_any_encoding(encoding):
    done = subprocess.run([sys.executable, scoop_lite.__file__, "--help"], stdout=subprocess.PIPE, timeout=60,
                          stderr=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": encoding})  # fmt: skip
    assert done.returncode == 0 and b"--hosts" in done.stdout and not done.stderr


def test_a_slip_in_the_number_of_workers_is_refused():
    done = subprocess.run([sys.executable, scoop_lite.__file__, "-n", "1000000000", "-c", "1"], timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert done.returncode == 2 and b"at most 100000" in done.stderr


@pytest.mark.parametrize("soft, hard, expected", [
    (256, -1, 10240), (10240, -1, None), (1024, 4096, 4096), (1024, 1 << 30, 1 << 16), (1 << 20, 1 << 20, None),
])  # fmt: skip
def test_the_limit_of_open_files_is_raised_as_far_as_systems_allow(monkeypatch, soft, hard, expected):
    """macOS refuses to have none; and of a billion, old programs that tasks start close each."""
    told = []
    hard = resource.RLIM_INFINITY if hard < 0 else hard
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: told.append(limits))
    scoop_lite.raise_file_limit()
    assert told == ([(expected, hard)] if expected else [])


def test_an_excepthook_that_fails_shows_both_errors_and_is_a_failure(launch_once):
    outcome = launch_once("""
        import sys
        def hook(kind, error, tb):
            raise LookupError("of the hook")
        sys.excepthook = hook
        if __name__ == "__main__":
            raise ValueError("of the script")
    """)
    assert outcome.returncode == 1 and "of the hook" in outcome.stderr and "of the script" in outcome.stderr
    assert "before its script had ended" not in outcome.stderr


def test_after_an_exception_the_prompt_is_there_all_the_same(launch_once):
    script = launch_once.write("VALUE = 7\nraise LookupError('of the script')\n")
    outcome = launch_once([script], options=["-i"], stdin=b"print(VALUE * 3, sum(futures.map(abs, [-1, -2])))\n")
    assert "21 3" in outcome.stdout and "LookupError: of the script" in outcome.stderr, outcome


def test_a_compiled_script_gets_its_arguments(launch_once, tmp_path):
    """Python runs it by itself: serially, as it then says."""
    script = launch_once.write("import sys\nprint(sys.argv[1:])\n")
    py_compile.compile(str(script), str(tmp_path / "compiled.pyc"))
    outcome = launch_once(["compiled.pyc", "a", "-n"])
    assert (outcome.returncode, outcome.stdout) == (0, "['a', '-n']\n"), outcome


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
def test_a_task_cannot_ask_at_the_terminal_and_so_does_not_stop_there(launch_once):
    """Of a worker that stops, nobody would know why; as it has no terminal, the task fails. Nor does one become its."""
    source = program("""
        def ask(i):
            time.sleep(0.05)
            if scoop_lite.IS_ORIGIN:
                return "origin"
            master, terminal = os.openpty()
            os.close(os.open(os.ttyname(terminal), os.O_RDWR))
            os.close(terminal)
            os.close(master)  # a hang-up for whose terminal that is
            try:
                os.open("/dev/tty", os.O_RDWR)
            except OSError as error:
                return type(error).__name__

        def main():
            return sorted(set(futures.map(ask, range(20))))
    """).replace("import time", "import time, scoop_lite", 1)
    theirs, ours = os.openpty()
    script = launch_once.write(source)
    words = [*map(str, (sys.executable, launch_once.file, "-n", "3", script))]
    shell = f"import os, sys; os.setsid(); os.open(os.ttyname({ours}), os.O_RDWR); os.execv(sys.executable, {words!r})"
    job = subprocess.Popen([sys.executable, "-c", shell], stdout=subprocess.PIPE, pass_fds=[ours])
    out = job.communicate(timeout=30)[0]
    assert json.loads(out) == ["OSError", "origin"]
