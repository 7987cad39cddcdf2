"""The page that examples/report.py makes of a trace, read back from a real browser.

    python -m pytest tests/test_report.py
    SCREENSHOTS=some/directory python -m pytest tests/test_report.py     # keeps the pictures; README shows report-light

The traces are made here, line by line, in the format that `--trace` writes, so that every number on the page is known.
The browser is Debian's chromium (or any of the names in BROWSERS), started once and driven through a pair of pipes;
without one, the tests that need it are skipped.
"""
from __future__ import annotations

import ast
import base64
import collections
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time

import pytest

REPORT = pathlib.Path(__file__).resolve().parent.parent / "examples" / "report.py"
BROWSERS = "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"
FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
         " --disable-component-update --disable-sync --hide-scrollbars --remote-debugging-pipe").split()
MS, S = 1e3, 1e6  # µs


# ----------------------------------------------------------------------------------------------------------------------
# Traces, as the launcher writes them
# ----------------------------------------------------------------------------------------------------------------------

def event(ph, name, pid, **fields):
    """Return one event of a trace."""
    return {"ph": ph, "name": name, "pid": pid, **fields}


def cast(n_workers, n_hosts=1, **facts):
    """Return the events at the head of a trace: the run, its hosts and its workers, dealt out in blocks."""
    facts = {"command": "script.py 7", "version": "1.0", "backend": "own", "python": "3.11.7", **facts}
    hosts = [event("M", "process_name", host, args={"name": f"host node{host}"}) for host in range(n_hosts)]
    workers = [event("M", "thread_name", host_of(rank, n_workers, n_hosts), tid=rank, args={"name": f"worker {rank}"})
               for rank in range(n_workers)]
    return [event("M", "scoop_lite", 0, args=facts), *hosts, *workers]


def host_of(rank, n_workers, n_hosts):
    """Return the host of a worker when workers are dealt out in blocks."""
    return rank * n_hosts // n_workers


def task(start, length, rank=0, name="f", host=0, n=1, args="(3, 'x')"):
    """Return a finished task; times in µs."""
    details = {"args": args, "owner": 0, "queued_us": 12.3, **({"n": n} if n > 1 else {})}
    return event("X", name, host, tid=rank, cat="task", ts=start, dur=length, args=details)


def wait(start, length, rank=0, host=0):
    """Return a wait."""
    return event("X", "wait", host, tid=rank, cat="wait", ts=start, dur=length)


def fault(at, host=0, text="killed by SIGKILL", **where):
    """Return a fault of a host, or with tid of one of its workers."""
    return event("i", "worker lost", host, s="p", cat="fault", ts=at, args={"text": text}, **where)


def rerun(at, rank=0, host=0, name="f"):
    """Return the mark of a task that starts once more."""
    return event("i", name, host, s="t", cat="rerun", tid=rank, ts=at, args={})


def others(host=0, rank=0):
    """Return events that the page does not show."""
    arrow = [event(ph, "f", host, tid=rank, cat="flow", id=1, ts=2.0) for ph in "stf"]
    return [*arrow, event("C", "queue", host, tid=rank, ts=2.0, args={"tasks": 5})]


def text_of(events, end="]\n"):
    """Return a trace file's text: one event a line, each with its comma."""
    return "[\n" + "".join(json.dumps(e) + ",\n" for e in events) + end


def example():
    """Return the trace of the docstring of report.py: 4 workers on 2 hosts, each with 10 tasks of 0.75 s."""
    tasks = [task(i * S + (250 * MS if i == 9 else 0), 750 * MS, rank, "step" if i % 3 else "reduce", rank // 2)
             for rank in range(4) for i in range(10)]
    return cast(4, 2) + tasks


def showcase():
    """Return a trace with everything in it, pretty enough for a picture."""
    command = "python scoop_lite.py --hosts hosts.txt examples/evolve.py 400"
    events = cast(12, 3, command=command, strands="greenlet", started="2026-11-22T12:50:11", clock_error_us=41.5)
    names = ["simulate", "score", "crossover", "mutate", "select"]
    for rank in range(12):
        at, host = (rank * 37 % 12) * 20 * MS, rank // 4
        for i in itertools.count():
            name = names[(i * 7 + rank * 3) * (i + rank) % 11 % 5]
            length = (60 + (i * 53 + rank * 29) % 97) * MS * (1 + names.index(name)) / 2
            if at + length > (4.1 * S if rank == 6 else 9.6 * S):
                break
            events += [wait(at, 18 * MS, rank, host), task(at + 18 * MS, length, rank, name, host, 1, f"({i}, {rank})")]
            at += length + 22 * MS
    return events + [fault(4.15 * S, 1, "killed by SIGKILL (out of memory?) while it ran mutate(31, 6)", tid=6),
                     rerun(4.4 * S, 5, 1, "mutate"), rerun(4.45 * S, 9, 2, "score")]


# ----------------------------------------------------------------------------------------------------------------------
# The page, and the browser that shows it
# ----------------------------------------------------------------------------------------------------------------------

def make(directory, trace):
    """Run report.py on a trace (text, or events); return the page's path and what was said on standard error."""
    source, page = directory / "trace.json", directory / "report.html"
    source.write_text(trace if isinstance(trace, str) else text_of(trace), encoding="utf-8")
    with open(page, "wb") as file:
        command = [sys.executable, str(REPORT), str(source)]
        done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert page.stat().st_size <= 2_000_000
    return page, done.stderr.decode().strip()


class Browser:
    """A headless Chromium, driven by its DevTools protocol: JSON messages, each with a zero byte at its end."""

    def __init__(self, program, profile):
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        for fd in (theirs_in, theirs_out):
            os.set_inheritable(fd, True)
        command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'  # the protocol wants descriptors 3 and 4
        self.process = subprocess.Popen(["bash", "-c", shell, "bash", *command], pass_fds=(theirs_in, theirs_out),
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self.to, self.back = os.fdopen(ours_out, "wb", 0), os.fdopen(ours_in, "rb")
        self.ids, self.session, self.seen = itertools.count(1), None, collections.deque()
        self.watchdog = threading.Timer(240, self.process.kill)  # reads have no timeout of their own
        self.watchdog.start()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def receive(self):
        """Return the next message."""
        data = bytearray()
        while not data.endswith(b"\0"):
            byte = self.back.read(1)
            if not byte:
                raise EOFError("the browser has gone")
            data += byte
        return json.loads(data[:-1].decode())

    def call(self, method, **params):
        """Call a method of the protocol and return its result; what happens meanwhile is kept in `seen`."""
        number = next(self.ids)
        session = {"sessionId": self.session} if self.session else {}
        self.to.write(json.dumps({"id": number, "method": method, "params": params, **session}).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self.seen.append(answer)

    def show(self, page, width=1200, height=900, scheme="light"):
        """Load a page in a window of this size, in light or dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.seen.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(message.get("method") == "Page.loadEventFired" for message in self.seen):
            self.seen.append(self.receive())
        return self

    def ask(self, expression):
        """Return the value of an expression of JavaScript (the question is a script; the page has none)."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def facts(self):
        """Return the facts at the head of the page."""
        return dict(self.ask("[...document.querySelectorAll('dl div')].map(d =>"
                             " [d.querySelector('dt').innerText.trim(), d.querySelector('dd').innerText.trim()])"))

    def lanes(self):
        """Return the rows of the timeline: label, and the tooltip, class and place (px) of each thing in it."""
        return self.ask("""[...document.querySelector('.plot').querySelectorAll('.row')].map(row => ({
            label: row.querySelector('b').innerText,
            left: row.querySelector('svg').getBoundingClientRect().left,
            width: row.querySelector('svg').getBoundingClientRect().width,
            top: row.getBoundingClientRect().top, height: row.getBoundingClientRect().height,
            things: [...row.querySelectorAll('svg > rect, svg > svg')].map(thing => {
                const shape = thing.querySelector('path') || thing, box = shape.getBoundingClientRect()
                return {css: shape.getAttribute('class'), title: thing.querySelector('title').textContent,
                        left: box.left, right: box.right, top: box.top, bottom: box.bottom,
                        opacity: +getComputedStyle(shape).opacity}})}))""")

    def workers(self):
        """Return the rows of the timeline that belong to hosts and workers, by label."""
        return {row["label"]: row for row in self.lanes()[2:]}

    def picture(self, name, tmp_path):
        """Take a picture of the whole page; return it as PNG."""
        height = self.ask("document.documentElement.scrollHeight")
        width = self.ask("innerWidth")
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True,
                         clip={"x": 0, "y": 0, "width": width, "height": min(height, 6000), "scale": 1})["data"]
        directory = pathlib.Path(os.environ.get("SCREENSHOTS") or tmp_path)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"report-{name}.png").write_bytes(base64.b64decode(data))
        return base64.b64decode(data)

    def close(self):
        """End the browser."""
        self.watchdog.cancel()
        self.call("Browser.close")
        self.process.wait(20)
        self.to.close()
        self.back.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser for all tests of this module."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not program:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    running = Browser(program, tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


def tasks_in(rows):
    """Return how many tasks the tooltips of bars that stand for several of them add up to, and how many stand alone."""
    titles = [t["title"] for row in rows for t in row["things"] if re.match(r"f\d$", t["css"])]
    joined = [int(m.group(1).replace(",", "")) for m in (re.match(r"([\d,]+) tasks, ", t) for t in titles) if m]
    return sum(joined), len(titles) - len(joined)


# ----------------------------------------------------------------------------------------------------------------------
# The file itself
# ----------------------------------------------------------------------------------------------------------------------

def test_report_is_short_and_needs_the_standard_library_only():
    source = REPORT.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 150
    assert max(map(len, source.splitlines())) <= 120
    imported = {getattr(node, "module", None) or node.names[0].name for node in ast.walk(ast.parse(source))
                if isinstance(node, (ast.Import, ast.ImportFrom))}
    assert imported <= {"json", "math", "sys", "collections", "html", "itertools"}


def test_docstring_shows_what_the_command_says(tmp_path):
    said = make(tmp_path, example())[1]
    promised = ast.get_docstring(ast.parse(REPORT.read_text(encoding="utf-8"))).splitlines()
    assert said == promised[-1].strip()


def test_usage_is_told():
    done = subprocess.run([sys.executable, str(REPORT)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "report.py trace.json > report.html" in done.stderr and not done.stdout


def test_page_has_no_script_and_names_no_other_file(tmp_path):
    page = make(tmp_path, showcase())[0].read_text(encoding="utf-8").lower()
    assert not re.search(r"<script|<link|<img|<iframe|<object|@import|url\(|https?:|\bsrc=|\bhref=|\son\w+=", page)


# ----------------------------------------------------------------------------------------------------------------------
# What a person sees
# ----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("trace", ["", "[", "[\n", "[\n]\n", text_of([]), text_of(cast(2)), text_of(cast(1), end="")],
                         ids=["empty", "bracket", "open", "closed", "no events", "two idle workers", "killed at once"])
def test_trace_without_tasks(browser, tmp_path, trace):
    facts = browser.show(make(tmp_path, trace)[0]).facts()
    assert (facts["tasks"], facts["busy"], facts["faults"]) == ("0", "0%", "0")
    assert facts["trace"] == ("whole" if trace.endswith("]\n") else "cut short")
    assert int(facts["workers"]) == trace.count("thread_name") == len(browser.workers()) - int(facts["hosts"])


def test_one_task(browser, tmp_path):
    page, said = make(tmp_path, cast(1) + [task(5 * S, 80 * MS)])
    facts = browser.show(page).facts()
    assert (facts["tasks"], facts["workers"], facts["hosts"], facts["busy"]) == ("1", "1", "1", "100%")
    assert (facts["time"], facts["version"], facts["backend"]) == ("80 ms", "1.0", "own")
    assert said == "tasks 1, workers 1, hosts 1, time 80 ms, busy 100%, faults 0, re-runs 0, trace whole"
    assert browser.ask("document.querySelector('h1').innerText") == browser.ask("document.title") == "script.py 7"
    ground, bar = browser.workers()["worker 0"]["things"]
    assert bar["title"].splitlines() == ["f(3, 'x')", "80 ms from 0", "owner 0", "queued_us 12.3"]
    assert abs(bar["left"] - ground["left"]) < 2 and abs(bar["right"] - ground["right"]) < 2


def test_fault_before_the_first_task(browser, tmp_path):
    facts = browser.show(make(tmp_path, cast(1) + [fault(5 * S)])[0]).facts()
    assert (facts["tasks"], facts["faults"]) == ("0", "1")


def test_task_that_took_no_time_is_shown(browser, tmp_path):
    facts = browser.show(make(tmp_path, cast(1) + [task(7.0, 0)])[0]).facts()
    assert facts["tasks"] == "1"
    assert [t["css"] for t in browser.workers()["worker 0"]["things"]] == ["bg", "f0"]


def test_bars_lie_where_the_tasks_were(browser, tmp_path):
    events = cast(2) + [task(0, S, 0, "f"), task(3 * S, S, 0, "g"), task(1 * S, 3 * S, 1, "g")] + others()
    rows = browser.show(make(tmp_path, events)[0]).workers()
    for label, expected in (("worker 0", [(0, .25), (.75, 1)]), ("worker 1", [(.25, 1)])):
        row = rows[label]
        places = [((t["left"] - row["left"]) / row["width"], (t["right"] - row["left"]) / row["width"])
                  for t in row["things"][1:]]
        assert [pytest.approx(e, abs=.003) for e in expected] == places
        assert all(row["top"] - 1 <= t["top"] and t["bottom"] <= row["top"] + row["height"] + 1 for t in row["things"])
    colours = {t["title"].split("(")[0]: t["css"] for row in rows.values() for t in row["things"][1:]}
    assert colours == {"g": "f0", "f": "f1"}  # by time spent


def test_share_of_busy_workers_over_time(browser, tmp_path):
    facts = browser.show(make(tmp_path, cast(2) + [task(0, 10 * S, 0), task(0, 5 * S, 1)])[0]).facts()
    assert facts["busy"] == "75%"
    chart = browser.lanes()[0]
    assert chart["label"] == "busy" and len(chart["things"]) == 200
    assert [t["title"].split(" at ")[0] for t in chart["things"]] == ["100% busy"] * 100 + ["50% busy"] * 100
    heights = [t["bottom"] - t["top"] for t in chart["things"]]
    assert heights == [pytest.approx(60, abs=1)] * 100 + [pytest.approx(30, abs=1)] * 100


def test_waits_inside_tasks_and_tasks_inside_waits_count_once(browser, tmp_path):
    # f works 0-2 and 8-10; while it waits, g works 3-6: 7 of 10 s
    events = cast(1) + [task(0, 10 * S, name="f"), wait(2 * S, 6 * S), task(3 * S, 3 * S, name="g")]
    facts = browser.show(make(tmp_path, events)[0]).facts()
    assert (facts["tasks"], facts["busy"]) == ("2", "70%")
    things = browser.workers()["worker 0"]["things"][1:]
    assert [t["css"] for t in things] == ["f0", "wait", "f1", "wait", "f0"]
    assert things[0]["title"] == things[4]["title"] and "10 s from 0" in things[0]["title"]


def test_tasks_that_overlap_without_nesting(browser, tmp_path):
    # two strands of one worker: what began last is what it was doing, and no moment counts twice
    browser.show(make(tmp_path, cast(1) + [task(0, 6 * S, name="f"), task(4 * S, 6 * S, name="g")])[0])
    assert browser.facts()["busy"] == "100%"
    assert [t["css"] for t in browser.workers()["worker 0"]["things"][1:]] == ["f1", "f0"]


def test_slices_count_all_their_tasks(browser, tmp_path):
    browser.show(make(tmp_path, cast(1) + [task(0, 50 * MS, n=500, args=""), task(50 * MS, 50 * MS)])[0])
    assert browser.facts()["tasks"] == "501"
    assert "n 500" in browser.workers()["worker 0"]["things"][1]["title"]
    bins = browser.ask("[...document.querySelectorAll('.plot')[1].querySelectorAll('rect')].map(r => r.textContent)")
    assert bins == ["500 tasks", "1 tasks"]  # 100 µs and 50 ms


def test_histogram_by_function(browser, tmp_path):
    long, short = [task(i * 20 * MS, 12 * MS) for i in range(30)], [task(S + i * MS, 120, name="g") for i in range(9)]
    browser.show(make(tmp_path, cast(1) + long + short)[0])
    heads = browser.ask("[...document.querySelectorAll('.plot')].slice(1).map(p => p.firstChild.textContent)")
    assert heads == ["f: 30 tasks, 360 ms of work", "g: 9 tasks, 1.08 ms of work"]
    places = browser.ask("""[...document.querySelectorAll('.plot')].slice(1).map(plot => {
        const [all, bar] = ['svg', 'rect'].map(kind => plot.querySelector(kind).getBoundingClientRect())
        return [bar.left - all.left, bar.right - all.left].map(x => 10 ** (7 * x / all.width)) })""")  # 1 µs to 10 s
    assert places[0][0] < 12 * MS < places[0][1] and places[1][0] < 120 < places[1][1]


def test_faults_and_reruns_are_marked_where_they_happened(browser, tmp_path):
    events = cast(4, 2) + [task(0, 10 * S, rank, host=rank // 2) for rank in range(4)]
    events += [fault(2.5 * S, 0, tid=1), fault(5 * S, 1, "no sign of life for 5 s"), rerun(7.5 * S, 2, 1)]
    facts = browser.show(make(tmp_path, events)[0]).facts()
    assert (facts["faults"], facts["re-runs"]) == ("2", "1")
    marks = [(label, t["css"], round(((t["left"] + t["right"]) / 2 - row["left"]) / row["width"], 2), t["title"])
             for label, row in browser.workers().items() for t in row["things"] if t["css"] in ("fault", "rerun")]
    expected = [("worker 1", "fault", .25), ("host node1", "fault", .5), ("worker 2", "rerun", .75)]
    assert [mark[:3] for mark in marks] == expected
    assert marks[0][3].splitlines() == ["worker lost", "2.5 s", "text killed by SIGKILL"]
    for row in browser.workers().values():
        for t in row["things"]:
            assert abs((t["top"] + t["bottom"]) / 2 - row["top"] - row["height"] / 2) < 3, t


def test_marks_lie_above_thin_lanes(browser, tmp_path):
    events = cast(200) + [task(0, S, rank) for rank in range(200)] + [fault(S / 2, tid=100)]
    browser.show(make(tmp_path, events)[0], height=4000)
    on_top = browser.ask("""(() => { const box = document.querySelector('.plot path').getBoundingClientRect()
        return document.elementFromPoint((box.left + box.right) / 2, box.bottom - 2).getAttribute('class') })()""")
    assert on_top == "fault"


def test_killed_run_is_shown_as_far_as_it_goes(browser, tmp_path):
    events = cast(2) + [task(i * S, S, i % 2) for i in range(10)]
    whole, last = text_of(events, end=""), json.dumps(task(10 * S, S))
    for cut in (0, 1, len(last) // 2, len(last) - 1, len(last), len(last) + 1):
        facts = browser.show(make(tmp_path, whole + (last + ",")[:cut])[0]).facts()
        assert (facts["tasks"], facts["busy"], facts["trace"]) == ("10", "50%", "cut short")
    assert browser.show(make(tmp_path, whole + last + ",\n")[0]).facts()["tasks"] == "11"


def test_file_cut_in_the_middle_of_a_letter(tmp_path):
    trace, events = tmp_path / "trace.json", cast(1) + [task(0, S, name="\u00e9t\u00e9")]
    trace.write_bytes(text_of(events, end='{"ph":"X","name":"\u00e9').encode()[:-1])
    done = subprocess.run([sys.executable, str(REPORT), str(trace)], capture_output=True, timeout=60)
    assert done.returncode == 0 and "\u00e9t\u00e9: 1 tasks" in done.stdout.decode()


def test_names_are_text_whatever_they_hold(browser, tmp_path):
    nasty = "<script>document.title='x'</script>&amp;\"'"
    events = [*cast(1, command=nasty), event("M", "thread_name", 0, tid=0, args={"name": nasty}),
              task(0, S, name=nasty, args=nasty), fault(S / 2, text=nasty), rerun(S, name=nasty)]
    browser.show(make(tmp_path, events)[0])
    assert browser.ask("document.title") == browser.ask("document.querySelector('h1').innerText") == nasty
    assert browser.ask("document.querySelectorAll('script').length") == 0
    assert any(t["title"].startswith(nasty + nasty) for row in browser.lanes() for t in row["things"])
    assert browser.ask("document.querySelector('.plot:last-child').firstChild.textContent").startswith(nasty)


def test_kinds_of_events_are_no_way_into_the_page(tmp_path):
    """Of a trace that somebody else has written."""
    events = [*cast(1), dict(task(0, S), cat="x><script>alert(1)</script>"), dict(fault(S / 2), cat="y onload=1")]
    page = make(tmp_path, events)[0].read_text(encoding="utf-8")
    assert "<script" not in page and "onload" not in page


def test_functions_may_be_named_like_the_words_of_the_format(browser, tmp_path):
    names = ["scoop_lite", "thread_name_of", "get_name", "wait", "fault", "task", "other"]
    events = cast(1) + [task(i * S, S, name=name) for i, name in enumerate(names)]
    assert browser.show(make(tmp_path, events)[0]).facts()["tasks"] == "7"
    things = browser.workers()["worker 0"]["things"][1:]
    assert [t["title"].split("(")[0] for t in things] == names and {t["css"][0] for t in things} == {"f"}
    assert "queued_us" not in browser.facts()


@pytest.mark.parametrize("n_workers, n_hosts", [(1, 1), (16, 2), (200, 8)])
def test_a_hundred_thousand_tasks(browser, tmp_path, n_workers, n_hosts):
    each = 100_000 // n_workers
    events = cast(n_workers, n_hosts) + [
        task(i * 100.0, 80.0, rank, "fgh"[i // 7 % 3], host_of(rank, n_workers, n_hosts))
        for rank in range(n_workers) for i in range(each)]
    began = time.monotonic()
    page, _ = make(tmp_path, events)
    print(f"{n_workers} workers: {page.stat().st_size:,} bytes, {time.monotonic() - began:.1f} s")
    facts = browser.show(page).facts()
    assert (facts["tasks"], facts["workers"], facts["hosts"]) == ("100,000", str(n_workers), str(n_hosts))
    assert facts["busy"] == "80%"
    joined, alone = tasks_in(browser.lanes()[2:])
    assert joined + alone == 100_000  # every task is in exactly one bar
    bars = [t for row in browser.lanes()[2:] for t in row["things"] if t["css"] != "bg"]
    assert len(bars) >= 500
    assert all(re.search(r"\b[789]\d% busy", t["title"]) for t in bars if " tasks, " in t["title"][:20])
    assert browser.ask("document.querySelectorAll('.plot').length") == 1 + 3  # the timeline, three functions


def test_many_functions_share_colours_and_rows_are_bounded(browser, tmp_path):
    events = cast(1) + [task(i * MS, (500 - i), name=f"lambda_{i}") for i in range(400)]
    browser.show(make(tmp_path, events)[0])
    assert browser.ask("document.querySelectorAll('.plot').length") == 21
    assert {t["css"] for t in browser.workers()["worker 0"]["things"]} <= {"bg", *(f"f{i}" for i in range(7))}
    assert "other" in browser.ask("[...document.querySelectorAll('span')].map(s => s.innerText.trim())")


def test_pile_of_reruns_stays_small(tmp_path):
    page, said = make(tmp_path, cast(1) + [task(0, S)] + [rerun(i * 10.0) for i in range(100_000)])
    assert "re-runs 100000" in said


# ----------------------------------------------------------------------------------------------------------------------
# How it looks
# ----------------------------------------------------------------------------------------------------------------------

def luminance(colour):
    """Return the relative luminance of a CSS colour `rgb(r, g, b)`, as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    r, g, b = (p / 12.92 if p <= .03928 else ((p + .055) / 1.055) ** 2.4 for p in parts)
    return .2126 * r + .7152 * g + .0722 * b


def contrast(one, other):
    """Return the contrast of two colours, from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + .05) / (low + .05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_from_the_ground(browser, tmp_path, scheme):
    events = showcase()
    browser.show(make(tmp_path, events)[0], scheme=scheme)
    paper = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert (luminance(paper) > .5) == (scheme == "light")
    assert contrast(paper, browser.ask("getComputedStyle(document.body).color")) >= 7
    assert contrast(paper, browser.ask("getComputedStyle(document.querySelector('text')).fill")) >= 7
    for css in ("f0", "f1", "f2", "f3", "f4", "fault", "rerun"):
        colour = browser.ask(f"getComputedStyle(document.querySelector('.{css}')).fill")
        assert contrast(paper, colour) >= 3, css
    assert browser.picture(f"{scheme}", tmp_path).startswith(b"\x89PNG")


LONG = "a_function_whose_name_goes_on_and_on_for_ever_and_ever_until_it_has_to_be_cut_somewhere"
SHAPES = {
    "2 workers": lambda: cast(2) + [task(i * S, .8 * S, i % 2, "fg"[i % 2]) for i in range(20)],
    "16 workers": showcase,
    "200 workers": lambda: cast(200, 8) + [
        task((i + rank % 7 / 7) * S, .9 * S, rank, "fgh"[(i + rank) % 3], rank // 25)
        for rank in range(200) for i in range(20)],
    "long names": lambda: cast(3, 1, command=f"python scoop_lite.py -n 3 {LONG * 2}.py") + [
        event("M", "process_name", 0, args={"name": f"host {LONG}.example.org"}),
        event("M", "thread_name", 0, tid=0, args={"name": f"worker 0 of {LONG}"}),
        *(task(i * S, .8 * S, i % 3, LONG + str(i % 9), args=str(list(range(99)))) for i in range(20))],
    "minutes": lambda: cast(2) + [task(i * 7 * S, 6.5 * S, i % 2) for i in range(60)],
    "days": lambda: cast(2) + [task(i * 7000 * S, 6900 * S, i % 2) for i in range(60)],
    "microseconds": lambda: cast(1) + [task(i * 4.0, 3.0) for i in range(6)],
}


@pytest.mark.parametrize("width", [1200, 360])
@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_overlaps_or_sticks_out(browser, tmp_path, shape, width):
    browser.show(make(tmp_path, SHAPES[shape]())[0], width=width)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    end = browser.ask("document.querySelector('.plot').getBoundingClientRect().right")
    texts = browser.ask("""[...document.querySelectorAll('.row')].map(row => [...row.querySelectorAll('text')].map(
        text => text.getBoundingClientRect()).map(box => [box.left, box.right])).filter(row => row.length)""")
    assert len(texts) > 1
    for row in texts:
        assert all(right <= left for (_, right), (left, _) in zip(row, row[1:])), (shape, row)
        assert 0 <= row[0][0] and row[-1][1] <= end, (shape, row)
    labels = browser.ask("""[...document.querySelector('.plot').querySelectorAll('b')].map(b => {
        const range = document.createRange(); range.selectNodeContents(b); const box = range.getBoundingClientRect()
        return [box.top, box.bottom, box.right, b.innerText] }).filter(label => label[3])""")
    heights = [(top + bottom) / 2 for top, bottom, _, _ in labels]
    assert all(b - a >= 11 for a, b in zip(heights, heights[1:])), (shape, heights)
    edge = min(row["left"] for row in browser.lanes())
    assert all(right <= edge for _, _, right, text in labels if not text.startswith("host")), (shape, labels)
    browser.picture(f"{shape.replace(' ', '-')}-{width}", tmp_path)


def test_browser_fetches_nothing_and_complains_of_nothing(browser, tmp_path):
    browser.show(make(tmp_path, showcase())[0])
    browser.ask("new Promise(done => setTimeout(() => done(1), 200))")
    fetched = [m["params"]["request"]["url"] for m in browser.seen if m.get("method") == "Network.requestWillBeSent"]
    assert fetched == [(tmp_path / "report.html").as_uri()]
    assert not [m for m in browser.seen if m.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")]
