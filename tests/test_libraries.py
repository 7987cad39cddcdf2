"""Libraries that take a pool or a map, on ours: each gives what its serial run gives.

They live in an environment of their own (`build/libraries-…`, or `SCOOP_LITE_LIBRARIES`), at the versions below; one
that cannot be installed is skipped by name.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parents[1]
EXAMPLES = CHECKOUT / "examples"
PINS = {
    "deap": "deap==1.4.4", "emcee": "emcee==3.1.6", "scipy": "scipy==1.17.1", "joblib": "joblib==1.6.0",
    "sklearn": "scikit-learn==1.9.1", "dask": "dask==2026.8.0", "pymoo": "pymoo==0.6.2",
    "nbclient": "nbclient==0.11.0", "ipykernel": "ipykernel==7.4.0",
}  # fmt: skip
VERSION = "{}.{}".format(*sys.version_info)
DIRECTORY = Path(os.environ.get("SCOOP_LITE_LIBRARIES") or CHECKOUT / "build" / f"libraries-{VERSION}")


@pytest.fixture(scope="session")
def environment():
    """The Python of an environment that may hold the libraries."""
    python = DIRECTORY / "bin" / "python"
    if not python.exists():
        venv.create(DIRECTORY, with_pip=True, symlinks=True)
    return str(python)


def require(python, *modules):
    """Install what a test needs; skip it if that cannot be done."""
    for module in modules:
        if subprocess.run([python, "-c", f"import {module}"], stderr=subprocess.DEVNULL).returncode:
            command = [python, "-m", "pip", "install", "-q", PINS[module]]
            done = subprocess.run(command, stderr=subprocess.PIPE, timeout=600)
            if done.returncode:
                pytest.skip(f"{PINS[module]} cannot be installed: {done.stderr.decode()[-300:]}")


def run(python, source, tmp_path, launch=True):
    """Run a program that prints True when the parallel result is the serial one."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(source))
    words = [str(CHECKOUT / "scoop_lite.py"), "-n", "2"] if launch else []
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([python, *words, str(path)], env=env, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout.split()[-1:]) == (0, [b"True"]), (done.stdout, done.stderr.decode()[-3000:])


def run_example(python, name, *words):
    done = subprocess.run([python, *words, f"examples/{name}.py"], cwd=CHECKOUT, timeout=120, check=True,
                          stdout=subprocess.PIPE)  # fmt: skip
    lines = done.stdout.decode().splitlines()
    documented = (EXAMPLES / f"{name}.py").read_text().splitlines()
    assert lines == [line[4:] for line in documented[3 : 3 + len(lines)]]


def test_deap_islands(environment):
    require(environment, "deap")
    run_example(environment, "deap_onemax", "scoop_lite.py", "-n", "4")


def test_deap_symbolic_regression(environment, tmp_path):
    require(environment, "deap")
    run(environment, """
        import math, operator, random
        from deap import algorithms, base, creator, gp, tools
        from scoop import futures  # as DEAP's own examples have it

        pset = gp.PrimitiveSet("MAIN", 1)
        functions = (operator.add, 2), (operator.sub, 2), (operator.mul, 2), (operator.neg, 1), (math.sin, 1)
        for function, arity in functions:
            pset.addPrimitive(function, arity)
        pset.renameArguments(ARG0="x")
        creator.create("FitnessMin", base.Fitness, weights=(-1.0,))
        creator.create("Individual", gp.PrimitiveTree, fitness=creator.FitnessMin)
        toolbox = base.Toolbox()
        toolbox.register("expr", gp.genHalfAndHalf, pset=pset, min_=1, max_=2)
        toolbox.register("individual", tools.initIterate, creator.Individual, toolbox.expr)
        toolbox.register("population", tools.initRepeat, list, toolbox.individual)
        toolbox.register("compile", gp.compile, pset=pset)

        def evaluate(individual, points):
            function = toolbox.compile(expr=individual)
            return (math.fsum((function(x) - x**4 - x**3 - x**2 - x) ** 2 for x in points) / len(points),)

        toolbox.register("evaluate", evaluate, points=[x / 10.0 for x in range(-10, 10)])
        toolbox.register("select", tools.selTournament, tournsize=3)
        toolbox.register("mate", gp.cxOnePoint)
        toolbox.register("expr_mut", gp.genFull, min_=0, max_=2)
        toolbox.register("mutate", gp.mutUniform, expr=toolbox.expr_mut, pset=pset)

        def evolve(map_):
            random.seed(318)
            toolbox.register("map", map_)
            population, _ = algorithms.eaSimple(toolbox.population(60), toolbox, 0.5, 0.1, 6, verbose=False)
            return [(str(x), x.fitness.values) for x in population]

        if __name__ == "__main__":
            print(evolve(futures.map) == evolve(map))
        """, tmp_path)  # fmt: skip


def test_emcee(environment, tmp_path):
    require(environment, "emcee")
    run(environment, """
        import emcee, numpy, scoop_lite
        from scoop_lite import futures

        def log_probability(x):
            return -0.5 * float(numpy.sum(x**2))

        def sample(pool):
            numpy.random.seed(42)
            start = numpy.random.randn(16, 3)
            sampler = emcee.EnsembleSampler(16, 3, log_probability, pool=pool)
            sampler.run_mcmc(start, 20)
            return sampler.get_chain()

        if __name__ == "__main__":
            with scoop_lite.Executor(2) as pool:
                print((sample(None) == sample(futures)).all() and (sample(None) == sample(pool)).all())
        """, tmp_path)  # fmt: skip


def test_scipy_differential_evolution(environment, tmp_path):
    require(environment, "scipy")
    run(environment, """
        import scoop_lite
        from scipy.optimize import differential_evolution, rosen

        def solve(workers):
            how = dict(seed=1, maxiter=15, updating="deferred")
            found = differential_evolution(rosen, [(-2, 2)] * 2, workers=workers, **how)
            return tuple(found.x)

        if __name__ == "__main__":
            with scoop_lite.Executor(2) as pool:
                print(solve(map) == solve(pool.map))
        """, tmp_path, launch=False)  # fmt: skip


def test_joblib_and_scikit_learn(environment, tmp_path):
    require(environment, "joblib", "sklearn")
    run_example(environment, "joblib_backend")
    run(environment, f"""
        import concurrent.futures, sys, time
        sys.path.insert(0, {str(EXAMPLES)!r})
        import joblib, joblib_backend
        from sklearn.datasets import load_iris
        from sklearn.model_selection import GridSearchCV
        from sklearn.svm import SVC

        def search(**options):
            with joblib.parallel_config(**options):
                search = GridSearchCV(SVC(), {{"C": [0.1, 1, 10], "gamma": [0.01, 0.1, 1]}})
                found = search.fit(*load_iris(return_X_y=True))
            return found.best_params_, list(found.cv_results_["mean_test_score"])

        if __name__ == "__main__":
            same = search(backend="scoop_lite", n_jobs=2) == search(backend="sequential")
            start = time.monotonic()
            with joblib.parallel_config(backend="scoop_lite", n_jobs=2):
                try:
                    joblib.Parallel(timeout=0.5)(joblib.delayed(time.sleep)(s) for s in (0.1, 100))
                except concurrent.futures.TimeoutError:
                    print(same and time.monotonic() - start < 50)  # what runs is not waited for
        """, tmp_path, launch=False)  # fmt: skip


def test_dask(environment, tmp_path):
    require(environment, "dask")
    run(environment, """
        import dask, scoop_lite

        def square(x):
            return x * x

        if __name__ == "__main__":
            total = dask.delayed(sum)([dask.delayed(square)(i) for i in range(30)])
            with scoop_lite.Executor(2) as pool:
                print(total.compute(scheduler=pool) == total.compute(scheduler="synchronous") == 8555)
        """, tmp_path, launch=False)  # fmt: skip


def test_pymoo(environment, tmp_path):
    require(environment, "pymoo")
    run(environment, """
        import numpy, scoop_lite
        from pymoo.algorithms.soo.nonconvex.ga import GA
        from pymoo.core.problem import ElementwiseProblem
        from pymoo.optimize import minimize
        from pymoo.parallelization.starmap import StarmapParallelization

        class Sphere(ElementwiseProblem):
            def __init__(self, **options):
                super().__init__(n_var=4, n_obj=1, xl=-1, xu=1, **options)

            def _evaluate(self, x, out, *args, **kwargs):
                out["F"] = float(numpy.sum(x**2))

        def solve(**options):
            return list(minimize(Sphere(**options), GA(pop_size=20), ("n_gen", 8), seed=1).X)

        if __name__ == "__main__":
            with scoop_lite.Executor(2) as pool:
                runner = StarmapParallelization(lambda f, rows: list(pool.map(f, *zip(*rows))))
                print(solve() == solve(elementwise_runner=runner))
        """, tmp_path, launch=False)  # fmt: skip


def test_the_notebook(environment, tmp_path):
    require(environment, "nbclient", "ipykernel")
    run(environment, f"""
        import nbformat
        from nbclient import NotebookClient

        if __name__ == "__main__":
            notebook = nbformat.read({str(EXAMPLES / "notebook.ipynb")!r}, 4)
            NotebookClient(notebook, timeout=60, resources={{"metadata": {{"path": {str(EXAMPLES)!r}}}}}).execute()
            outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
            print([o["data"]["text/plain"] for o in outputs] == ["[3, 4, 7, 12, 19]", "45", "144"])
        """, tmp_path, launch=False)  # fmt: skip


def test_an_interrupted_cell(environment, tmp_path):
    require(environment, "nbclient", "ipykernel")
    run(environment, f"""
        import asyncio, nbformat
        from nbclient import NotebookClient

        CELLS = ["import sys, time; sys.path.insert(0, {str(CHECKOUT)!r}); "
                 "import scoop_lite; pool = scoop_lite.Executor(2)",
                 "list(pool.map(time.sleep, [60] * 1000))", "pool.submit(lambda: 6 * 7).result(20)"]

        async def main():
            notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
            client = NotebookClient(notebook, timeout=60, allow_errors=True)
            async with client.async_setup_kernel():
                await client.async_execute_cell(notebook.cells[0], 0)
                cell = asyncio.ensure_future(client.async_execute_cell(notebook.cells[1], 1))
                await asyncio.sleep(1)
                await client.km.interrupt_kernel()
                await cell
                await client.async_execute_cell(notebook.cells[2], 2)
            names = [o.get("ename") or o["data"]["text/plain"] for c in notebook.cells for o in c.outputs]
            print(names, names == ["KeyboardInterrupt", "42"])

        if __name__ == "__main__":
            asyncio.run(main())
        """, tmp_path, launch=False)  # fmt: skip
