"""CPython's own tests of executors, run against scoop_lite.Executor: ``python tests/cpython_executor.py``.

They come with the interpreter that runs this, or lie on PYTHONPATH; `NOT_OURS` names those that cannot be passed, each
with its reason.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import unittest
from pathlib import Path

CHECKOUT = str(Path(__file__).resolve().parents[1])
sys.path.insert(0, CHECKOUT)

import scoop_lite  # noqa: E402

PRIVATE = "reaches into ProcessPoolExecutor's private attributes"
SYNCHRONIZATION = "multiprocessing's primitives can be inherited by its own processes only"
NOT_OURS = {
    "test_processes_terminate": PRIVATE + " (_processes)",
    "test_context_manager_shutdown": PRIVATE + " (_processes)",
    "test_del_shutdown": PRIVATE + " (_processes, _executor_manager_thread)",
    "test_shutdown_no_wait": PRIVATE + " (_processes)",
    "test_killed_child": PRIVATE + " (_processes)",
    "test_idle_process_reuse_one": PRIVATE + " (_processes)",
    "test_idle_process_reuse_multiple": PRIVATE + " (_processes)",
    "test_max_tasks_per_child": PRIVATE + " (_processes); tests/test_executor.py has the same without them",
    "test_max_tasks_per_child_defaults_to_spawn_context": PRIVATE + " (_mp_context)",
    "test_saturation": SYNCHRONIZATION,
    "test_traceback": "wants the class of the cause to be ProcessPoolExecutor's own",
    "test_python_finalization_error": PRIVATE + " (the number of its threads)",
    "test_hang_gh94440": PRIVATE + " (mp_context, _max_workers)",
    "test_max_workers_too_large": "about Windows",
    "test_submit_keyword": "wants submit(fn=…), which Python 3.9 has ended",
    "test_shutdown_deadlock": PRIVATE + " (_executor_manager_thread)",
    "test_shutdown_deadlock_pickle": PRIVATE + " (_executor_manager_thread)",
    "test_terminate_workers": PRIVATE + " (_force_shutdown)",
    "test_kill_workers": PRIVATE + " (_force_shutdown)",
    "test_force_shutdown_workers": PRIVATE + " (_processes); tests/test_executor.py has the same without them",
    "test_force_shutdown_workers_stops_pool": PRIVATE + " (_processes)",
    "test_force_shutdown_workers_invalid_op": PRIVATE + " (_force_shutdown)",
    "test_broken_process_pool_traceback": PRIVATE + " (_processes)",
    "test_failed_worker_replacement_breaks_pool": PRIVATE + " (_executor_manager_thread)",
    "test_force_shutdown_during_max_tasks_worker_exit": PRIVATE + " (_executor_manager_thread)",
    "test_gc_during_max_tasks_worker_exit_gh152967": PRIVATE + " (_executor_manager_thread)",
    "test_shutdown_no_wait_max_tasks_gh119592": PRIVATE + " (_executor_manager_thread)",
    "test_traceback_when_child_process_terminates_abruptly": "wants ProcessPoolExecutor's own words as the cause",
    "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": PRIVATE + " (_ThreadWakeup)",
}


class Executor(scoop_lite.Executor):
    """Takes ProcessPoolExecutor's mp_context, which the tests pass, and does nothing with it."""

    def __init__(self, *args, mp_context=None, **kwargs):
        super().__init__(*args, **kwargs)


def find(name):
    """The class of this name in CPython's tests, wherever this version keeps it; None if it has none."""
    for part in ("", ".executor", ".test_process_pool", ".test_shutdown", ".test_wait", ".test_as_completed",
                 ".test_init", ".test_deadlock", ".util"):  # fmt: skip
        try:
            module = importlib.import_module("test.test_concurrent_futures" + part)
        except ModuleNotFoundError:
            continue
        if hasattr(module, "assert_python_ok"):
            module.assert_python_ok = run_with_ours(module.assert_python_ok)
        if hasattr(module, name):
            return getattr(module, name)
    return None


def run_with_ours(assert_python_ok):
    """Let programs that the tests start in a process of their own use our executor."""
    if hasattr(assert_python_ok, "ours"):
        return assert_python_ok

    def run(flag, program, *rest, **options):
        paths = [CHECKOUT + "/tests", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        ours = f"import sys; sys.path[:0] = {paths}; from cpython_executor import Executor"
        program = program.replace("from concurrent.futures import Executor", ours)
        return assert_python_ok(flag, program, *rest, **options)

    run.ours = True
    return run


def make_test(base):
    """Make a test case of one of CPython's, for our executor."""
    mixin = find("ExecutorMixin")
    members = {
        "executor_type": Executor,
        "get_context": lambda self: multiprocessing.get_context("spawn"),
        "create_event": lambda self: self.manager.Event(),
        "__module__": __name__,
    }
    if not (3, 9) <= sys.version_info < (3, 14) and "Initializer" not in base.__name__:
        members["ctx"] = "spawn"
    for name in NOT_OURS:
        if name == "test_submit_keyword" and sys.version_info >= (3, 9):
            continue
        if hasattr(base, name):
            members[name] = unittest.skip(NOT_OURS[name])(getattr(base, name))
    bases = (base,) if issubclass(base, mixin) else (mixin, base)
    case = find("BaseTestCase") or unittest.TestCase
    return type("Ours" + base.__name__, (*bases, case), members)


if find("ExecutorMixin") is not None:
    for base in map(find, ("ProcessPoolShutdownTest", "ProcessPoolExecutorTest", "WaitTests", "AsCompletedTests",
                           "InitializerMixin", "FailingInitializerMixin", "ExecutorDeadlockTest")):  # fmt: skip
        if base is not None:
            test = make_test(base)
            globals()[test.__name__] = test
    del base, test

if __name__ == "__main__":
    if find("ExecutorMixin") is None:
        sys.exit("this Python was installed without its tests")
    unittest.main(verbosity=2)
