"""The systems that are compared: how each is started, and how it maps, submits, broadcasts and nests.

A `System` lives in the process that drives it. Its class also tells the benchmark, before anything runs, which packages
it needs and which command starts such a process. Imports of peers happen in `__init__`: nobody pays for another's.
"""

from __future__ import annotations

import sys

import tasks

#: Workloads in which a documented setting for short or uneven tasks makes a difference to a pool with chunks.
CHUNKED = frozenset({"map", "metg-map", "irregular", "generations"})


class Unavailable(Exception):
    """The system cannot run here; the text says why."""


class System:
    """What all systems have in common.

    Args:
        workers: Processes that run tasks.
        best: Name of the workload for which to use the documented best setting; empty for the default one.
    """

    name = ""
    distributions = ()          # what pip installs
    best_in = frozenset()       # workloads in which the best setting differs from the default
    best_text = ""              # what the best setting is
    cannot = {}                 # workload -> why the system cannot run it
    most_workers = 16           # more of its workers than this do not start in sensible time on two cores
    hello = ""                  # a whole program: start, one task, its result on standard output, clean exit

    def __init__(self, workers, best):
        self.workers = workers
        self.best = best

    @staticmethod
    def command(python, options, workers, best):
        """Return the words that come before a program's name."""
        return [python]

    def chunk_length(self, n_items, irregular):
        """Return the length that documentation recommends: several chunks a worker, or 1 where task lengths differ."""
        return 1 if irregular else max(1, n_items // (4 * self.workers))

    def chunked(self, function, items, irregular):
        """Return map's results by batches made by hand, for systems that offer no chunk size."""
        length = self.chunk_length(len(items), irregular)
        batches = [items[start:start + length] for start in range(0, len(items), length)]
        return [value for batch in self.results([self.submit(tasks.apply_chunk, function, batch) for batch in batches])
                for value in batch]

    def map(self, function, items, irregular=False):
        """Return `[function(item) for item in items]`."""
        raise NotImplementedError

    def submit(self, function, *args):
        """Return a handle on one task."""
        raise NotImplementedError

    def results(self, handles):
        """Return the results of many handles."""
        return [handle.result() for handle in handles]

    def caller(self):
        """Return a function that runs one call elsewhere and waits for it."""
        return lambda function, *args: self.results([self.submit(function, *args)])[0]

    def broadcast(self, name, array, n_readers):
        """Return the results of `n_readers` tasks that each read the whole of one array."""
        return self.results([self.submit(tasks.read_array, array) for _ in range(n_readers)])

    def fib(self, n):
        """Return the n-th Fibonacci number by nested tasks."""
        raise Unavailable("no nested tasks")

    def close(self):
        """Stop all processes."""


def read_constant(name):
    """Read every element of a shared array."""
    import nested
    return tasks.read_array(sys.modules[nested.futures.__name__.partition(".")[0]].shared.getConst(name, timeout=30))


class Futures(System):
    """A system whose launcher runs the program and whose interface is a module `futures`."""

    module = ""

    def __init__(self, workers, best):
        super().__init__(workers, best)
        import nested
        self.nested = nested
        self.futures = nested.futures
        self.submit = self.futures.submit

    def map(self, function, items, irregular=False):
        return list(self.futures.map(function, items))

    def broadcast(self, name, array, n_readers):
        sys.modules[self.module].shared.setConst(**{name: array})
        return self.results([self.submit(read_constant, name) for _ in range(n_readers)])

    def fib(self, n):
        return self.nested.fib(n)


HELLO_FUTURES = """
from {module} import futures
def noop(value):
    return value
if __name__ == "__main__":
    print(futures.submit(noop, 42).result())
"""

HELLO_EXECUTOR = """
from {module} import {name}
def noop(value):
    return value
if __name__ == "__main__":
    with {name}({workers}) as executor:
        print(executor.submit(noop, 42).result())
"""


class ScoopLite(Futures):
    """The file beside these tests, with its own engine and greenlets."""

    name = "scoop_lite"
    module = "scoop_lite"
    distributions = ("pyzmq", "greenlet", "numpy")
    most_workers = 1000
    hello = HELLO_FUTURES.format(module="scoop_lite")
    words = ("--strands", "greenlet")
    cannot = {"latency": "the origin runs tasks itself; see scoop_lite.Executor"}

    @classmethod
    def command(cls, python, options, workers, best):
        return [python, str(options.file), "-n", str(workers), *cls.words]


class ScoopLiteZmq(ScoopLite):
    """The same with libzmq."""

    name = "scoop_lite-zmq"
    words = ("--strands", "greenlet", "--backend", "zmq")


class ScoopLiteThread(ScoopLite):
    """The same with threads as strands: what a bare Python gets."""

    name = "scoop_lite-thread"
    words = ("--strands", "thread")


class ScoopLiteModule(ScoopLite):
    """The same started with -m, which uses the compiled file."""

    name = "scoop_lite-m"

    @classmethod
    def command(cls, python, options, workers, best):
        return [python, "-m", "scoop_lite", "-n", str(workers), *cls.words]


class PoolExecutor(System):
    """What the executors of concurrent.futures' kind share."""

    best_in = CHUNKED
    best_text = "chunksize: 4 chunks a worker, or 1 where lengths differ"
    executor = None

    def map(self, function, items, irregular=False):
        if self.best:
            return list(self.executor.map(function, items, chunksize=self.chunk_length(len(items), irregular)))
        return list(self.executor.map(function, items))

    def submit(self, function, *args):
        return self.executor.submit(function, *args)

    def close(self):
        self.executor.shutdown()


class ScoopLiteExecutor(PoolExecutor):
    """A client that runs no task itself: every task travels."""

    name = "scoop_lite.Executor"
    distributions = ("pyzmq", "greenlet", "numpy")
    best_in = frozenset()
    most_workers = 1000
    hello = HELLO_EXECUTOR.format(module="scoop_lite", name="Executor", workers="{workers}")

    def __init__(self, workers, best):
        super().__init__(workers, best)
        import scoop_lite
        if not hasattr(scoop_lite, "Executor"):
            raise Unavailable("scoop_lite has no Executor")
        self.executor = scoop_lite.Executor(max_workers=workers)


class Pool(System):
    """The standard library's oldest pool; its map has chunks by default."""

    name = "multiprocessing.Pool"
    best_in = CHUNKED
    best_text = "chunksize: 5,000, or 1 where lengths differ"
    most_workers = 1000
    hello = """
from multiprocessing import Pool
def noop(value):
    return value
if __name__ == "__main__":
    with Pool({workers}) as pool:
        print(pool.apply_async(noop, (42,)).get())
        pool.close()
        pool.join()
"""

    def __init__(self, workers, best):
        super().__init__(workers, best)
        import multiprocessing
        self.pool = multiprocessing.Pool(workers)

    def chunk_length(self, n_items, irregular):
        return 1 if irregular else max(1, min(5000, n_items // (4 * self.workers)))

    def map(self, function, items, irregular=False):
        return self.pool.map(function, items, self.chunk_length(len(items), irregular) if self.best else None)

    def submit(self, function, *args):
        return self.pool.apply_async(function, args)

    def results(self, handles):
        return [handle.get() for handle in handles]

    def close(self):
        self.pool.close()
        self.pool.join()


_inherited = None     # the executor that forked workers find here when a task tries to submit a task


def inherited_fib(n):
    """Submit to the executor that this process inherited: documented to deadlock."""
    if n < 2:
        return n
    left = _inherited.submit(inherited_fib, n - 1)
    return left.result() + _inherited.submit(inherited_fib, n - 2).result()


class ProcessPoolExecutor(PoolExecutor):
    """The standard library's executor."""

    name = "ProcessPoolExecutor"
    most_workers = 1000
    hello = HELLO_EXECUTOR.format(module="concurrent.futures", name="ProcessPoolExecutor", workers="{workers}")

    def __init__(self, workers, best):
        super().__init__(workers, best)
        import concurrent.futures
        global _inherited
        _inherited = self.executor = concurrent.futures.ProcessPoolExecutor(workers)

    def fib(self, n):
        return self.executor.submit(inherited_fib, n).result()


class Loky(PoolExecutor):
    """joblib's executor."""

    name = "loky"
    distributions = ("loky", "numpy")
    most_workers = 64
    hello = HELLO_EXECUTOR.format(module="loky", name="ProcessPoolExecutor", workers="{workers}")

    def __init__(self, workers, best):
        super().__init__(workers, best)
        import loky
        self.executor = loky.ProcessPoolExecutor(workers)


class Joblib(System):
    """loky under joblib: automatic batches, and arrays as memory-mapped files."""

    name = "joblib"
    distributions = ("joblib", "numpy")
    cannot = {"submit": "no submit", "metg-submit": "no submit", "pending": "no submit", "latency": "no submit",
              "relay": "no submit", "sleepers": "no submit"}
    hello = """
from joblib import Parallel, delayed
def noop(value):
    return value
if __name__ == "__main__":
    print(Parallel(n_jobs={workers})(delayed(noop)(42) for _ in range(1))[0])
"""

    def __init__(self, workers, best):
        super().__init__(workers, best)
        import joblib
        self.delayed = joblib.delayed
        self.parallel = joblib.Parallel(n_jobs=workers).__enter__()

    def map(self, function, items, irregular=False):
        call = self.delayed(function)
        return self.parallel(call(item) for item in items)

    def submit(self, function, *args):
        return self.delayed(function)(*args)

    def results(self, handles):
        return self.parallel(handles)

    def close(self):
        self.parallel.__exit__(None, None, None)


class Mpi4py(PoolExecutor):
    """mpi4py.futures, whose workers are spawned.

    The other documented launch, `mpiexec -n N+1 python -m mpi4py.futures`, was tried: on two cores its three polling
    processes had 0.6 of the submits per second, twice the latency and a tenth of the GB/s.
    """

    name = "mpi4py.futures"
    distributions = ("mpi4py", "mpich", "numpy")
    best_in = CHUNKED | {"latency", "arrays"}
    best_text = "chunksize; use_pkl5 for arrays; backoff=0 for latency"
    hello = HELLO_EXECUTOR.format(module="mpi4py.futures", name="MPIPoolExecutor", workers="{workers}")

    def __init__(self, workers, best):
        super().__init__(workers, best)
        from mpi4py.futures import MPIPoolExecutor
        special = {"arrays": {"use_pkl5": True}, "latency": {"backoff": 0.0}}
        self.executor = MPIPoolExecutor(workers, **special.get(best, {}))


def dask_fib(n):
    """Return the n-th Fibonacci number; a waiting task gives up its place, as Dask documents."""
    import distributed
    if n < 2:
        return n
    with distributed.worker_client() as client:
        return sum(client.gather([client.submit(dask_fib, n - below, pure=False) for below in (1, 2)]))


class Dask(System):
    """dask.distributed with processes and without its dashboard."""

    name = "dask.distributed"
    distributions = ("distributed", "numpy")
    best_in = CHUNKED | {"arrays"}
    best_text = "batches made by hand; scatter(broadcast=True)"
    hello = """
from distributed import Client, LocalCluster
def noop(value):
    return value
if __name__ == "__main__":
    with LocalCluster(n_workers={workers}, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            print(client.submit(noop, 42).result())
"""

    def __init__(self, workers, best):
        super().__init__(workers, best)
        from distributed import Client, LocalCluster
        self.cluster = LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None)
        self.client = Client(self.cluster)

    def map(self, function, items, irregular=False):
        if self.best and not irregular:
            return self.chunked(function, items, irregular)
        return self.client.gather(self.client.map(function, items, pure=False))

    def submit(self, function, *args):
        # A pure call with the same arguments would not run again: not what is measured.
        return self.client.submit(function, *args, pure=False)

    def results(self, handles):
        return self.client.gather(handles)

    def broadcast(self, name, array, n_readers):
        if self.best:
            array = self.client.scatter(array, broadcast=True)
        return super().broadcast(name, array, n_readers)

    def fib(self, n):
        return self.submit(dask_fib, n).result()

    def close(self):
        self.client.close()
        self.cluster.close()


def ray_fib(n):
    """Return the n-th Fibonacci number; Ray starts more workers while some wait."""
    import ray
    if n < 2:
        return n
    remote = ray.remote(ray_fib)
    return sum(ray.get([remote.remote(n - 1), remote.remote(n - 2)]))


class Ray(System):
    """Ray: remote functions by default; its multiprocessing.Pool and object store are the documented best."""

    name = "ray"
    distributions = ("ray", "numpy")
    best_in = CHUNKED | {"arrays", "latency"}
    best_text = "ray.util.multiprocessing.Pool.map; an actor's method for latency; ray.put once for a broadcast"
    hello = """
import ray
@ray.remote
def noop(value):
    return value
if __name__ == "__main__":
    ray.init(num_cpus={workers}, include_dashboard=False, logging_level="ERROR")
    print(ray.get(noop.remote(42)))
    ray.shutdown()
"""

    def __init__(self, workers, best):
        super().__init__(workers, best)
        import ray
        self.ray = ray
        ray.init(num_cpus=workers, include_dashboard=False, logging_level="ERROR")
        self.remotes = {}
        self.pool = None

    def remote(self, function):
        """Return the remote function, made once, or an actor's method that calls it."""
        if function not in self.remotes:
            self.remotes[function] = self.ray.remote(function)
        return self.remotes[function].remote

    def map(self, function, items, irregular=False):
        if not self.best:
            return self.results([self.submit(function, item) for item in items])
        if self.pool is None:
            from ray.util.multiprocessing import Pool as RayPool
            self.pool = RayPool(self.workers)
        return self.pool.map(function, items, chunksize=1 if irregular else None)

    def submit(self, function, *args):
        return self.remote(function)(*args)

    def results(self, handles):
        return self.ray.get(handles)

    def caller(self):
        """Return the plain way, or the quickest that is documented: a method of an actor that exists already."""
        if not self.best:
            return super().caller()
        actor = self.ray.remote(Caller).remote()
        return lambda function, *args: self.ray.get(actor.call.remote(function, *args))

    def broadcast(self, name, array, n_readers):
        return super().broadcast(name, self.ray.put(array) if self.best else array, n_readers)

    def fib(self, n):
        return self.ray.get(self.submit(ray_fib, n))

    def close(self):
        if self.pool is not None:
            self.pool.terminate()
        self.ray.shutdown()


class Caller:
    """The actor that Ray's documentation recommends for many small calls."""

    def call(self, function, *args):
        """Call a function here."""
        return function(*args)


def ipyparallel_fib(n, profile_dir, cluster_id):
    """Return the n-th Fibonacci number by a client of the same cluster inside the engine, which waits."""
    import ipyparallel
    if n < 2:
        return n
    with ipyparallel.Client(profile_dir=profile_dir, cluster_id=cluster_id) as client:
        view = client.load_balanced_view()
        halves = [view.apply_async(ipyparallel_fib, n - below, profile_dir, cluster_id) for below in (1, 2)]
        return sum(half.get() for half in halves)


class Ipyparallel(System):
    """ipyparallel: a load-balanced view by default; a direct view's map is one message per engine."""

    name = "ipyparallel"
    distributions = ("ipyparallel", "numpy")
    best_in = CHUNKED | {"latency", "arrays"}
    best_text = "DirectView.map for even tasks, chunksize for uneven ones; DirectView.push for a broadcast"
    hello = """
import ipyparallel
def noop(value):
    return value
if __name__ == "__main__":
    with ipyparallel.Cluster(n={workers}, log_level=40) as client:
        print(client.load_balanced_view().apply_sync(noop, 42))
"""

    def __init__(self, workers, best):
        super().__init__(workers, best)
        import ipyparallel
        self.cluster = ipyparallel.Cluster(n=workers, log_level=40)
        self.client = self.cluster.start_and_connect_sync(activate=False)
        self.view = self.client.load_balanced_view()

    def map(self, function, items, irregular=False):
        if self.best and not irregular:
            return list(self.client[:].map_sync(function, items))
        return list(self.view.map_sync(function, items))

    def submit(self, function, *args):
        return self.view.apply_async(function, *args)

    def results(self, handles):
        return [handle.get() for handle in handles]

    def caller(self):
        """Return the plain way, or the quickest that is documented: straight to one engine."""
        if not self.best:
            return super().caller()
        return self.client[0].apply_sync

    def broadcast(self, name, array, n_readers):
        if not self.best:
            return super().broadcast(name, array, n_readers)
        import ipyparallel
        self.client[:].push({name: array}, block=True)
        return self.results([self.submit(tasks.read_array, ipyparallel.Reference(name)) for _ in range(n_readers)])

    def fib(self, n):
        return self.submit(ipyparallel_fib, n, self.cluster.profile_dir, self.cluster.cluster_id).get()

    def close(self):
        self.client.close()
        self.cluster.stop_cluster_sync()


class Parsl(System):
    """Parsl's HighThroughputExecutor."""

    name = "parsl"
    distributions = ("parsl", "numpy")
    best_in = CHUNKED | {"submit", "metg-submit", "pending"}
    best_text = "prefetch_capacity=100, unencrypted, no log; batches made by hand for map"
    hello = """
import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider
@parsl.python_app
def noop(value):
    return value
if __name__ == "__main__":
    executor = HighThroughputExecutor(max_workers_per_node={workers}, cores_per_worker=1e-3, address="127.0.0.1",
                                      provider=LocalProvider(init_blocks=1, max_blocks=1))
    with parsl.load(Config(executors=[executor])):
        print(noop(42).result())
"""

    def __init__(self, workers, best):
        super().__init__(workers, best)
        import parsl
        from parsl.config import Config
        from parsl.executors import HighThroughputExecutor
        from parsl.providers import LocalProvider
        self.parsl = parsl
        quick = {"prefetch_capacity": 100, "encrypted": False} if best else {}
        executor = HighThroughputExecutor(max_workers_per_node=workers, cores_per_worker=1e-3, address="127.0.0.1",
                                          provider=LocalProvider(init_blocks=1, max_blocks=1), **quick)
        parsl.load(Config(executors=[executor], strategy="none", initialize_logging=not best))
        self.apps = {}

    def map(self, function, items, irregular=False):
        if self.best and not irregular:
            return self.chunked(function, items, irregular)
        return self.results([self.submit(function, item) for item in items])

    def submit(self, function, *args):
        if function not in self.apps:
            self.apps[function] = self.parsl.python_app(function)
        return self.apps[function](*args)

    def fib(self, n):
        # Parsl nests by join apps: they run in the program's own process and their results are futures.
        leaf, add = self.parsl.python_app(tasks.noop), self.parsl.python_app(int.__add__)

        @self.parsl.join_app
        def join_fib(n):
            return leaf(n) if n < 2 else add(join_fib(n - 1), join_fib(n - 2))

        return join_fib(n).result()

    def close(self):
        self.parsl.dfk().cleanup()


class Scoop(Futures):
    """SCOOP itself, whose documentation names no faster setting than the default."""

    name = "scoop"
    module = "scoop"
    distributions = ("scoop", "numpy")
    most_workers = 64
    hello = HELLO_FUTURES.format(module="scoop")
    cannot = {"latency": "the origin runs tasks itself"}

    @staticmethod
    def command(python, options, workers, best):
        return [python, "-m", "scoop", "-n", str(workers)]


OURS = (ScoopLite, ScoopLiteExecutor, ScoopLiteZmq, ScoopLiteThread, ScoopLiteModule)
PEERS = (Pool, ProcessPoolExecutor, Loky, Joblib, Mpi4py, Dask, Ray, Ipyparallel, Parsl, Scoop)
BY_NAME = {system.name: system for system in OURS + PEERS}
