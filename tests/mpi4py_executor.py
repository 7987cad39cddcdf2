"""The executor tests of mpi4py, run against scoop_lite.Executor: ``python tests/mpi4py_executor.py TEST_FUTURES.PY``.

The file is `demo/futures/test_futures.py` of mpi4py's source distribution. What it imports of mpi4py, which needs MPI,
is made here; `NOT_OURS` names the tests that cannot be passed, each with its reason. Workers import this program, so
that they find the file's functions, too.
"""

from __future__ import annotations

import concurrent.futures
import sys
import types
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import scoop_lite  # noqa: E402

ADDITION = "about an addition of mpi4py's to executors"
PRIVATE = "reaches into MPIPoolExecutor's private attributes"
OPTION = "about an option of MPIPoolExecutor's"
NOT_OURS = {
    "ThenTest": ADDITION, "CollectTest": ADDITION, "ComposeTest": ADDITION,
    "ThreadPoolTest": "about a thread pool of its own",
    "MPICommExecutorTest": "about communicators of MPI",
    "test_map_unordered": ADDITION, "test_map_unordered_timeout": ADDITION, "test_map_unordered_timeout_one": ADDITION,
    "test_map_unordered_exception": ADDITION, "test_map_unordered_chunksize": ADDITION,
    "test_map_buffersize": ADDITION + " (unordered)",
    "test_get_comm_workers": ADDITION,
    "test_init_kwargs": OPTION, "test_init_pyargs": OPTION, "test_init_sys_flags": OPTION, "test_init_globals": OPTION,
    "test_max_workers_environ": OPTION, "test_use_pkl5_kwarg": OPTION, "test_use_pkl5_environ": OPTION,
    "test_mpi_serialized_support": PRIVATE, "test_shutdown": PRIVATE, "test_shutdown_cancel": PRIVATE,
    "test_init_bootup_shutdown": PRIVATE, "test_context_manager_shutdown": PRIVATE, "test_del_shutdown": PRIVATE,
    "test_bootup_shutdown_nowait": PRIVATE,
    "test_max_workers": PRIVATE + " (_max_workers)",
    "test_exc_pickle": "wants no cause; ours names the part that cannot be pickled",
    "test_bad_unpickle": "wants the error itself; CPython's tests want a BrokenProcessPool, and get it",
    "test_exc_unpickle": "wants the error itself; CPython's tests want a BrokenProcessPool, and get it",
}  # fmt: skip


class Executor(scoop_lite.Executor):
    """With the three names that mpi4py's tests use of its executor, as programs would write them for any."""

    def bootup(self, wait=True):
        if self._shutdown:
            raise RuntimeError("it was shut down")
        concurrent.futures.wait([self.submit(int)], None if wait else 0)
        return self

    @property
    def num_workers(self):
        return 0 if self._broken else self._max_workers

    def starmap(self, fn, rows, **options):
        return self.map(fn, *zip(*rows), **options)


def stand_in():
    """Put modules where mpi4py's tests import theirs from."""
    world = types.SimpleNamespace(Get_size=lambda: 1)
    mpi = types.SimpleNamespace(COMM_WORLD=world, COMM_SELF=world, get_vendor=lambda: ("none", (0, 0, 0)))
    futures = types.ModuleType("mpi4py.futures")
    vars(futures).update(vars(concurrent.futures))
    vars(futures).update(
        MPIPoolExecutor=Executor, MPICommExecutor=None, get_comm_workers=None,
        BrokenExecutor=concurrent.futures.BrokenExecutor,
        TimeoutError=concurrent.futures.TimeoutError,
        _core=types.SimpleNamespace(SharedPool=None, MAIN_RUN_NAME="__mp_main__"),
    )  # fmt: skip
    sys.modules.update({
        "mpi4py": types.SimpleNamespace(MPI=mpi, futures=futures),
        "mpi4py.futures": futures,
        "mpi4py.futures.aplus": types.SimpleNamespace(ThenableFuture=None),
        "mpitestutil": types.SimpleNamespace(disable_mpi_spawn=lambda: False),
    })


def leave_out():
    """Skip the tests in NOT_OURS."""
    left = set(NOT_OURS)
    for name, case in list(globals().items()):
        if isinstance(case, type) and issubclass(case, unittest.TestCase):
            if name in NOT_OURS:
                globals()[name] = unittest.skip(NOT_OURS[name])(case)
                left.discard(name)
            for test in NOT_OURS:
                if hasattr(case, test):
                    setattr(case, test, unittest.skip(NOT_OURS[test])(getattr(case, test)))
                    left.discard(test)
    assert not left, f"these are no tests there: {left}"


path = Path(sys.argv[1])
stand_in()
exec(compile(path.read_text().partition('if __name__ == "__main__":')[0], str(path), "exec"))
if __name__ == "__main__":
    leave_out()
    unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)
