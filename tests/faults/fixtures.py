"""Fixtures of the fault suite: an engine for each test, a starter of runs that cleans up, and a hard limit of time.

A test module takes them with ``from faults.fixtures import *``: the functions' names differ from the fixtures', so
that no argument of a test hides an import.
"""
from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from typing import Callable, Iterator, List, NamedTuple, Sequence

import pytest
from conftest import as_parameter, is_of_module, missing_package

from faults.jobs import DEAD_AFTER_S, QUICK, Job

__all__ = ["fixture_help_text", "fixture_engine", "fixture_hard_limit", "fixture_run", "fixture_run_own",
           "fixture_run_zmq"]

#: Faults meet the link engine, not the strands: one kind of strand is enough here.
STRANDS = "greenlet" if missing_package("greenlet") is None else "thread"
ENGINES = ("own-" + STRANDS, "zmq-" + STRANDS)

#: The hard limit of a test, unless it has another with ``@limit(seconds)``.
LIMIT_S = 60

soak = pytest.mark.soak
root = pytest.mark.root


def limit(seconds: int) -> Callable:
    """Give a test a hard limit of its own."""
    def decorate(test: Callable) -> Callable:
        test.limit_s = seconds
        return test
    return decorate


class Pace(NamedTuple):
    """How long liveness takes: options, the time after which a silent host is dead, and until its work runs again."""

    options: Sequence[str]
    dead_after_s: float
    rerun_after_s: float


#: The suite's own pace, and the default one, which only the soak has the time for.
PACES = [pytest.param(Pace(QUICK, DEAD_AFTER_S, 1.5 * DEAD_AFTER_S), id="quick"),
         pytest.param(Pace((), 5.0, 6.0), id="full", marks=soak)]


@pytest.fixture(name="engine", params=[as_parameter(combo) for combo in ENGINES])
def fixture_engine(request) -> List[str]:
    """The options of one link engine."""
    backend, strands = request.param.split("-")
    return ["--backend", backend, "--strands", strands]


@pytest.fixture(name="run")
def fixture_run(request, tmp_path, engine) -> Iterator[Callable[..., Job]]:
    """Start runs with one engine: ``run(program, *options, **how)`` returns a Job; all are ended with the test."""
    yield from runs_of(request, tmp_path, engine)


@pytest.fixture(name="run_own")
def fixture_run_own(request, tmp_path) -> Iterator[Callable[..., Job]]:
    """Start runs with the own engine, for what only concerns that one."""
    yield from runs_of(request, tmp_path, ["--backend", "own", "--strands", STRANDS])


@pytest.fixture(name="run_zmq")
def fixture_run_zmq(request, tmp_path) -> Iterator[Callable[..., Job]]:
    """Start runs with the ØMQ engine, for what only concerns that one."""
    pytest.importorskip("zmq", reason="pyzmq is not installed")
    yield from runs_of(request, tmp_path, ["--backend", "zmq", "--strands", STRANDS])


def runs_of(request, directory, engine_options) -> Iterator[Callable[..., Job]]:
    """Yield a starter of runs below a directory; end what it started."""
    file = {"file": request.config.getoption("--file"), "as_module": is_of_module(request.config, engine_options[1])}
    with contextlib.ExitStack() as started:
        count = iter(range(10**6))

        def start(program: str, *options: str, **how) -> Job:
            """Start a run in a directory of its own; see Job for the keywords."""
            job = Job(directory / ("run%d" % next(count)), program, [*engine_options, *options], **{**file, **how})
            return started.enter_context(job)

        yield start


@pytest.fixture(name="help_text", scope="session")
def fixture_help_text(request) -> str:
    """The launcher's --help."""
    command = [sys.executable, request.config.getoption("--file"), "--help"]
    return subprocess.run(command, stdout=subprocess.PIPE, timeout=30, check=True, text=True).stdout


@pytest.fixture(name="hard_limit", autouse=True)
def fixture_hard_limit(request) -> Iterator[None]:
    """End a test that hangs, wherever it hangs; leave out the long ones unless they are asked for."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the fault suite looks at processes through Linux's /proc")
    if request.node.get_closest_marker("soak") and "soak" not in request.config.getoption("-m"):
        pytest.skip("takes long: run with -m soak")
    seconds = getattr(request.function, "limit_s", LIMIT_S)

    def over(signal_number, frame):
        raise AssertionError("the test itself hung for %d s" % seconds)

    previous = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds, 10)  # again and again: what cleans up after a hang may hang too
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)
