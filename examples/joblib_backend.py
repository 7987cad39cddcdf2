"""scikit-learn and everything else that uses joblib, on an Executor's pool.

    $ python3 examples/joblib_backend.py
    [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]

Needs `pip install joblib`. With scikit-learn:
``with parallel_backend("scoop_lite"): GridSearchCV(…, n_jobs=4).fit(…)``.
"""
import sys
from pathlib import Path

from joblib import Parallel, delayed, parallel_config, register_parallel_backend
from joblib._parallel_backends import AutoBatchingMixin, ParallelBackendBase

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where scoop_lite.py is, unless it is installed
import scoop_lite  # noqa: E402


class ScoopLiteBackend(AutoBatchingMixin, ParallelBackendBase):
    """Runs joblib's batches on a scoop_lite.Executor."""

    supports_retrieve_callback = True

    def configure(self, n_jobs=1, parallel=None, **options):
        self.parallel, self.pool = parallel, scoop_lite.Executor(self.effective_n_jobs(n_jobs))
        return self.effective_n_jobs(n_jobs)

    def effective_n_jobs(self, n_jobs):
        return scoop_lite.usable_cpus() if n_jobs in (None, -1) else n_jobs

    def submit(self, func, callback=None):
        future = self.pool.submit(func)
        future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, future):
        return future.result()

    def terminate(self):
        self.pool.shutdown(cancel_futures=True)

    def abort_everything(self, ensure_ready=True):
        self.pool.kill_workers()  # a task may never end
        if ensure_ready:
            self.configure(self.parallel.n_jobs, self.parallel)


register_parallel_backend("scoop_lite", ScoopLiteBackend)


def square(x):
    return x * x


if __name__ == "__main__":
    with parallel_config("scoop_lite", n_jobs=2):
        print(Parallel()(delayed(square)(i) for i in range(10)))
