"""Copies of the file in packages and under other names: which module stands under which name, in which process."""

from __future__ import annotations

import os
import py_compile
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
FAR = ["--hosts", "far", "--launcher", "env H={host} sh -c"]

#: A library that brings a copy, under a name of its choice.
LIBRARY = """
from .vendor import copy
from .vendor.copy import Executor, MisuseError, WorkerLost, futures, shared

def square(x):
    return x * x

def outer(n):
    return sum(futures.map(square, range(n)))

def look(n):
    return outer(n), copy.IS_RUNNING, shared.getConst("k")

def misuse():
    raise MisuseError("here")

def kill():
    futures.submit(copy.os._exit, 3).result()

def travelling():
    return lambda n: sum(futures.map(square, range(n)))
"""
PROGRAM = """
import lib, sys
from lib.vendor.copy import futures, shared

if __name__ == "__main__":
    shared.setConst(k=7)
    print(*futures.map(lib.look, range(3)))
"""
POOL = """
import lib

if __name__ == "__main__":
    with lib.Executor(2, {options}) as pool:
        pool.set_const(k=7)
        print(*pool.map(lib.look, range(3)))
"""
LOOKED = "(0, True, 7) (0, True, 7) (1, True, 7)\n"


@pytest.fixture
def place(tmp_path):
    make_library(tmp_path)
    return tmp_path


def make_library(place, name="lib", version=None):
    package = place / name / "vendor"
    package.mkdir(parents=True)
    (place / name / "__init__.py").write_text(LIBRARY)
    (package / "__init__.py").touch()
    text = (CHECKOUT / "scoop_lite.py").read_text(encoding="utf-8")
    text = re.sub(r"^(__version__ = ).*", rf'\1"{version}"', text, flags=re.M) if version else text
    (package / "copy.py").write_text(text, encoding="utf-8")
    return package / "copy.py"


def run(place, *words, path="", source=None):
    """Run Python where none but the copies in `place` are found; return status, standard output, standard error."""
    if source is not None:
        (place / "program.py").write_text(source)
        words = [*words, "program.py"]
    how = {"cwd": place, "env": {**os.environ, "PYTHONPATH": path}, "universal_newlines": True, "timeout": 60}
    done = subprocess.run([sys.executable, *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, **how)  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("way", ["file", "module", "interpreter", "prolog", "far", "command", "command, far", "before"])
def test_a_librarys_copy_is_the_one_that_runs_the_program(place, way):
    """Whatever has made the process that imports it: a fork of the launcher, an agent, a console script."""
    (place / "prolog.sh").write_text("true\n")
    (place / "command.py").write_text("from lib.vendor.copy import main\nmain()\n")
    if way == "before":  # a module that Python's start imports, as by a .pth file
        (place / "start").mkdir()
        (place / "start" / "sitecustomize.py").write_text("import lib")
    words = {
        "module": ["-m", "lib.vendor.copy"], "interpreter": ["--python-interpreter", sys.executable], "far": FAR,
        "prolog": ["--prolog", "prolog.sh"], "command": ["command.py"], "command, far": ["command.py", *FAR],
    }.get(way, [])  # fmt: skip
    own = [] if way in ("module", "command", "command, far") else [CHECKOUT / "scoop_lite.py"]
    path = os.pathsep.join([str(place / "start"), str(place)] if way == "before" else [str(place)])
    status, out, err = run(place, *own, *words, "-n", "2", path=path, source=PROGRAM)
    assert (status, out) == (0, LOOKED) and (not err or way == "module" and "found in sys.modules" in err), err


@pytest.mark.parametrize("options", [
    "", "backend='loopback'", "python_interpreter=sys.executable", "hosts=['far'], launcher='env H={host} sh -c'",
])  # fmt: skip
@pytest.mark.parametrize("before", [False, True], ids=["alone", "imported before"])
def test_a_librarys_copy_is_the_one_that_runs_its_pool(place, options, before):
    (place / "sitecustomize.py").write_text("import lib" * before)
    source = "import sys\n" + POOL.replace("{options}", options)
    assert run(place, path=str(place), source=source) == (0, LOOKED, "")


def test_a_copy_that_is_loaded_without_a_place_in_sys_modules_says_so(place):
    source = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("mine", "lib/vendor/copy.py")
module = importlib.util.module_from_spec(spec)
try:
    spec.loader.exec_module(module)
except ImportError as error:
    print(error)
sys.modules["mine"] = module
spec.loader.exec_module(module)
print(module.futures.__name__)
"""
    said = "mine is not in sys.modules: put a module there before you have its loader execute it"
    assert run(place, source=source) == (0, f"{said}\nmine.futures\n", "")


def test_libraries_with_a_copy_each_get_their_own_errors_and_code(place):
    """Also of another version; and a pool of one runs tasks of the other."""
    for name, version in ("lib2", None), ("lib3", "0.0.1"):
        make_library(place, name, version)
    status, out, err = run(place, source="""
import lib, lib2, lib3

def failure(pool, task):
    return type(pool.submit(task).exception()).__mro__

if __name__ == "__main__":
    for own in lib, lib2, lib3:
        with own.Executor(2, retries=0, quiet=True) as pool:
            print(own.MisuseError in failure(pool, own.misuse), own.WorkerLost in failure(pool, own.kill),
                  *pool.map(own.travelling(), range(4)), pool.submit(own.travelling).result()(1),
                  pool.submit(own.futures.map_reduce, abs, max, [-3]).result(),
                  own.MisuseError is pool.submit(lambda: own.MisuseError).result(), *pool.map(lib2.square, [3]))
""")
    assert (status, out) == (0, "True True 0 0 1 5 0 3 True 9\n" * 3), err


def test_to_import_a_copy_makes_no_other_name_known(place):
    """Another version of scoop_lite may be installed; or none, and `scoop_lite` be tried by who can do without."""
    assert run(place, source="""
import importlib.util, sys
sys.path[:] = [path for path in sys.path if "site-packages" not in path]  # where ours may be installed
from lib.vendor.copy.shared import setConst
print(importlib.util.find_spec("scoop_lite"), *sorted(n for n in sys.modules if "scoop" in n or n[:3] == "lib"))
""") == (0, "None lib lib.vendor lib.vendor.copy lib.vendor.copy.futures lib.vendor.copy.shared\n", "")


NAMESAKE = """
import copy_of_ours

def name():
    return copy_of_ours.plural(2, "mouse")

if __name__ == "__main__":
    from lib.copy_of_ours import Executor, futures
    with Executor(2) as pool:
        print(*futures.map(copy_of_ours.plural, [2], ["mouse"]), pool.submit(name).result(),
              pool.submit(copy_of_ours.plural, 2, "mouse").result())
"""


@pytest.mark.parametrize("words", [[], ["lib/copy_of_ours.py", "-n", "2"], ["-m", "lib.copy_of_ours", "-n", "2"]],
                         ids=["alone", "file", "module"])  # fmt: skip
def test_a_module_that_is_called_as_a_copys_file_stays_the_users(place, words):
    shutil.copy(place / "lib" / "vendor" / "copy.py", place / "lib" / "copy_of_ours.py")
    (place / "copy_of_ours.py").write_text("def plural(n, word):\n    return 'mice'\n")
    status, out, err = run(place, *words, source=NAMESAKE)
    assert (status, out) == (0, "mice mice mice\n"), err


def test_in_tasks_of_a_pool_scoop_is_the_users(place):
    """Only programs that the launcher runs may have been written for SCOOP."""
    (place / "scoop.py").write_text("def one():\n    return 1\n")
    assert run(place, source="""
import lib, scoop
if __name__ == "__main__":
    with lib.Executor(1) as pool:
        print(pool.submit(scoop.one).result())
""") == (0, "1\n", "")


@pytest.mark.parametrize("compiled", [False, True], ids=["source", "compiled"])
@pytest.mark.parametrize("options", ["", "backend='loopback'"], ids=["own", "loopback"])
def test_modules_beside_a_copy_are_none_of_pythons(place, options, compiled):
    for name in "types", "logging", "json", "signal", "zipimport":
        (place / "lib" / "vendor" / f"{name}.py").write_text("raise SystemExit('imported instead')")
    if compiled:
        copy = place / "lib" / "vendor" / "copy.py"
        py_compile.compile(str(copy), str(copy) + "c", doraise=True)
        copy.unlink()
    assert run(place, source=POOL.replace("{options}", options)) == (0, LOOKED, "")
