"""The package: what the wheel and the sdist hold, that they build the same everywhere, that what they install works."""

from __future__ import annotations

import ast
import glob
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
SOURCES = ("scoop_lite.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", ".ci", "examples", "tests")
LITTER = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")

#: Any fixed moment does; the archives carry it instead of the time of building.
EPOCH = "1790000000"


def version():
    """`__version__`, read without importing: what the build backend does too."""
    source = (CHECKOUT / "scoop_lite.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(\d+\.\d+\.\d+\S*)"$', source, re.MULTILINE).group(1)


def say(command, limit_s=60, env=(), **how):
    """Run a command outside of any project; fail with all it printed unless it succeeds, and return that."""
    env = {**{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))},
           "SOURCE_DATE_EPOCH": EPOCH, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", **dict(env)}
    done = subprocess.run(
        list(map(str, command)), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=limit_s, check=False, text=True, **how,
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(done.args)}: status {done.returncode}\n{done.stdout}", pytrace=False)
    return done.stdout


def clean_venv(directory, python=sys.executable):
    """Make a virtual environment without any package but pip; return the directory of its commands."""
    say([python, "-m", "venv", directory])
    return directory / "bin"


def pythons():
    """This Python, and the oldest and the newest that the project is for, where they are installed."""
    yield pytest.param(sys.executable, id="this")
    for wanted in ("3.8", "3.13"):
        candidates = [*glob.glob(os.path.expanduser(f"~/.pyenv/versions/{wanted}.*/bin/python")), f"python{wanted}"]
        found = next(filter(shutil.which, candidates), None)
        marks = [] if found else pytest.mark.skip(reason=f"Python {wanted} is not installed")
        yield pytest.param(found, id=wanted, marks=marks)


# ---------------------------------------------------------------------------------------------------------------------
# Without building
# ---------------------------------------------------------------------------------------------------------------------


def test_script_metadata_says_what_the_package_says():
    """Script runners read the block at the top of the file, package installers pyproject.toml."""
    source = (CHECKOUT / "scoop_lite.py").read_text(encoding="utf-8")
    (block,) = re.findall(r"^# /// script\n((?:#(?: .*)?\n)+?)# ///$", source, re.MULTILINE)
    project = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    for key in ("requires-python", "dependencies"):
        pattern = re.compile(rf"^(?:# )?{key} = (\[.*?\]|\".*?\")", re.MULTILINE)
        (of_script,), (of_package,) = (
            [ast.literal_eval(value) for value in pattern.findall(text)] for text in (block, project)
        )
        assert str(of_script).replace(" ", "") == str(of_package).replace(" ", "")


def test_version_is_in_the_changelog_and_on_the_command_line(launch_once):
    assert f"\n## [{version()}]" in (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    outcome = launch_once([], n=None, options=["--version"])
    assert outcome.returncode == 0 and version() in outcome.stdout, outcome


# ---------------------------------------------------------------------------------------------------------------------
# Wheel and sdist
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    """A Python with the tools that build packages."""
    commands = clean_venv(tmp_path_factory.mktemp("builder") / "venv")
    say([commands / "pip", "install", "--quiet", "build", "flit_core >= 3.11"], limit_s=120)
    return commands / "python"


@pytest.fixture(scope="module")
def build(builder, tmp_path_factory):
    """Builds an sdist, and from it a wheel, from a fresh copy of the project; returns their paths."""

    def build_copy():
        copy = tmp_path_factory.mktemp("copy")
        for name in SOURCES:
            source, target = CHECKOUT / name, copy / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=LITTER, copy_function=shutil.copyfile)
            else:
                shutil.copyfile(source, target)
        say([builder, "-m", "build", "--no-isolation", "--outdir", copy / "dist", copy])
        (sdist,), (wheel,) = (copy / "dist").glob("*.tar.gz"), (copy / "dist").glob("*.whl")
        return sdist, wheel

    return build_copy


@pytest.fixture(scope="module")
def archives(build):
    return build()


@pytest.mark.slow
def test_wheel_holds_the_one_module(archives):
    _, wheel = archives
    with zipfile.ZipFile(wheel) as archive:
        outside = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert outside == ["scoop_lite.py"]
        assert archive.read("scoop_lite.py") == (CHECKOUT / "scoop_lite.py").read_bytes()
        inside = f"scoop_lite-{version()}.dist-info/"
        metadata = Parser().parsestr(archive.read(inside + "METADATA").decode())
        commands = archive.read(inside + "entry_points.txt").decode()
    assert wheel.name == f"scoop_lite-{version()}-py3-none-any.whl"
    assert (metadata["Name"], metadata["Version"]) == ("scoop-lite", version())
    assert metadata["Requires-Python"].replace(" ", "") == ">=3.8"
    assert metadata["License-Expression"] == "MIT"
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert sorted(required) == ["greenlet", "pyzmq"]
    assert commands.replace(" ", "").split() == ["[console_scripts]", "scoop-lite=scoop_lite:main"]


@pytest.mark.slow
def test_sdist_holds_the_project(archives):
    sdist, _ = archives
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    copied = {str(path.relative_to(sdist.parents[1])) for path in sdist.parents[1].rglob("*") if path.is_file()}
    wanted = {name for name in copied if not name.startswith("dist/")}
    assert held == wanted | {"PKG-INFO"}
    assert {"tests/conftest.py", "tests/test_packaging.py", "examples/hello.py", "LICENSE"} <= held


@pytest.mark.slow
def test_builds_are_reproducible(archives, build):
    for first, second in zip(archives, build()):
        assert first.read_bytes() == second.read_bytes(), f"two builds of {first.name} differ"


# ---------------------------------------------------------------------------------------------------------------------
# Installed
# ---------------------------------------------------------------------------------------------------------------------


def expect_working(commands, directory):
    """The installed command and module work from a directory that has nothing to do with the project."""
    shutil.copyfile(CHECKOUT / "examples" / "hello.py", directory / "hello.py")
    for command in ([commands / "scoop-lite"], [commands / "python", "-m", "scoop_lite"]):
        assert version() in say([*command, "--version"], cwd=directory)
        greetings = say([*command, "-n", "2", "hello.py"], cwd=directory).splitlines()
        assert greetings == [f"Hello World from task {number}" for number in range(16)]


@pytest.mark.slow
@pytest.mark.parametrize("python", list(pythons()))
def test_wheel_in_a_clean_environment(archives, python, tmp_path):
    """Without its dependencies, as on a machine that has no package for them."""
    commands = clean_venv(tmp_path / "venv", python)
    say([commands / "pip", "install", "--quiet", "--no-deps", "--no-index", archives[1]])
    expect_working(commands, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("python", list(pythons())[1:])
def test_sdist_with_its_dependencies_in_a_clean_environment(archives, python, tmp_path):
    """The whole way that `pip install` goes: isolated build, dependencies, command."""
    commands = clean_venv(tmp_path / "venv", python)
    say([commands / "pip", "install", "--quiet", archives[0]], limit_s=180)
    expect_all_jobs(say([commands / "scoop-lite", "--self-check"], cwd=tmp_path))
    expect_working(commands, tmp_path)


def expect_all_jobs(report):
    """`--self-check` found both packages, and has run a job with each engine and kind of strand."""
    assert len(re.findall("^ok +a job with", report, re.MULTILINE)) == 4 and "missing pyzmq" not in report, report


@pytest.mark.slow
@pytest.mark.parametrize("python", list(pythons())[1:])
def test_tests_of_the_unpacked_sdist_pass(archives, python, tmp_path):
    """A choice of them that takes seconds; `.ci/run` runs nearly all of them so."""
    commands = clean_venv(tmp_path / "venv", python)
    shutil.unpack_archive(archives[0], tmp_path)
    (directory,) = tmp_path.glob("scoop_lite-*")
    say([commands / "pip", "install", "--quiet", f"{directory}[test]"], limit_s=180)
    chosen = [f"tests/test_{name}.py" for name in ("codec", "protocol", "readme", "shared")]
    options = ["-q", "-p", "no:cacheprovider", "--combos=quick", "-m", "not slow and not soak and not cluster"]
    said = say([commands / "python", "-m", "pytest", *options, *chosen], limit_s=400, cwd=directory)
    assert re.search(r"^\d{2,} passed", said, re.MULTILINE), said


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["uv", "pipx"])
def test_script_runners_read_what_the_file_needs(runner, tmp_path):
    """`uv run scoop_lite.py` and `pipx run scoop_lite.py` install what the block at the top of the file names."""
    commands = clean_venv(tmp_path / "venv")
    say([commands / "pip", "install", "--quiet", runner], limit_s=120)
    shutil.copyfile(CHECKOUT / "scoop_lite.py", tmp_path / "scoop_lite.py")
    own = {"PIPX_HOME": str(tmp_path / "pipx"), "UV_CACHE_DIR": str(tmp_path / "uv"), "UV_PYTHON_DOWNLOADS": "never"}
    command = [commands / runner, "run", "scoop_lite.py", "--self-check"]
    expect_all_jobs(say(command, limit_s=120, cwd=tmp_path, env=own))
