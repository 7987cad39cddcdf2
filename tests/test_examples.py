"""The examples: each does what its own docstring shows, with every engine and every kind of strand."""

from __future__ import annotations

import ast
import doctest
import encodings
import hashlib
import textwrap
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NAMES = "as_completed evolution exceptions hello pi quicksort shared_constant tree word_count".split()
COMMAND = "    $ python3 scoop_lite.py -n 4 examples/{}.py\n"
MAX_LINES = 40


def documented_output(name):
    """What the docstring shows below the command; `...` there stands for any text."""
    documentation = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8")), clean=False)
    before, command, after = documentation.partition(COMMAND.format(name))
    assert command, f"{name}.py does not document its command"
    return textwrap.dedent(after.partition("\n\n")[0]).rstrip("\n") + "\n"


def expect_documented(name, outcome):
    wanted = documented_output(name)
    assert outcome.returncode == 0, outcome
    matches = doctest.OutputChecker().check_output(wanted, outcome.stdout, doctest.ELLIPSIS)
    assert matches, f"{name}.py documents\n{wanted}but\n{outcome!r}"


@pytest.fixture
def run_example(launch):
    """Runs an example from the checkout, as its docstring says."""
    return lambda name, **how: launch([f"examples/{name}.py"], n=4, cwd=EXAMPLES.parent, **how)


@pytest.mark.parametrize("name", NAMES)
def test_example_prints_what_it_documents(run_example, name):
    outcome = run_example(name)
    expect_documented(name, outcome)
    assert outcome.stderr == ""


@pytest.mark.parametrize("name", NAMES)
def test_example_without_the_launcher(launch_once, name):
    """Everything runs serially then, with the same results and one warning."""
    outcome = launch_once.serial(EXAMPLES / f"{name}.py")
    expect_documented(name, outcome)
    assert outcome.stderr.count("Warning: ") == 1 and "serially" in outcome.stderr, outcome


@pytest.mark.parametrize("name", NAMES)
def test_example_is_short_and_guarded(name):
    source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_LINES
    assert '\nif __name__ == "__main__":\n' in source


def test_every_example_is_listed_here():
    """`report.py` reads a trace; the others run without the launcher or need a library, and have their own tests."""
    others = {"report", "executor_asyncio", "deap_onemax", "joblib_backend"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*NAMES, *others}


def test_word_count_equals_its_serial_self_byte_for_byte(run_example, launch_once):
    """Of one package with many files; `.ci/run bare` and the README's test have it count the whole library."""
    directory = Path(encodings.__file__).parent
    parallel = run_example("word_count", args=[directory])
    serial = launch_once.plain(EXAMPLES / "word_count.py", args=["--serial", directory])
    assert parallel.returncode == serial.returncode == 0, (parallel, serial)
    assert parallel.stdout_bytes == serial.stdout_bytes
    assert len(serial.stdout.splitlines()) == 11
    assert int(serial.stdout.split()[-2]) > 100


@pytest.fixture
def odd_files(tmp_path):
    """Twelve files that a word counter meets sooner or later, and four that it must leave out."""
    directory = tmp_path / "odd files ü"
    contents = {
        "plain.py": b"one two two three three three",
        "case.py": b"Three THREE snake_case_words x1y2",
        "latin.py": "# -*- coding: latin-1 -*-\ncafé".encode("latin-1"),
        "utf16.py": "wide words".encode("utf-16"),
        "noise.py": hashlib.sha512(b"noise").digest(),
        "nul.py": b"\0\0nul\0\0",
        "empty.py": b"",
        "bom.py": b"\xef\xbb\xbfmarked",
        "unicode.py": "größe 数字 слово İstanbul ﬁn".encode(),
        "deep/er/still.py": b"deeper",
        "returns.py": b"a\rb\r\nc",
        "a space.py": b"space",
        "site-packages/foreign.py": b"foreign",
        "deep/dist-packages/foreign.py": b"foreign",
        "notes.txt": b"foreign",
    }
    for name, content in contents.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (directory / "folder.py").mkdir()
    return directory


def test_word_count_of_a_directory_copes_with_any_file(run_example, launch_once, odd_files):
    parallel = run_example("word_count", args=[odd_files])
    serial = launch_once.plain(EXAMPLES / "word_count.py", args=["--serial", odd_files])
    assert parallel.stdout_bytes == serial.stdout_bytes
    assert "       5 three\n" in serial.stdout
    assert "foreign" not in serial.stdout
    assert serial.stdout.endswith(" in 12 files\n")


def test_word_count_says_when_there_is_nothing_to_count(run_example, tmp_path):
    outcome = run_example("word_count", args=[tmp_path / "nowhere"])
    assert outcome.returncode == 2
    assert "there is no .py file below" in outcome.stderr
    assert outcome.stdout == ""


def test_pi_depends_on_the_seed_alone(launch):
    """`task_rng` follows the task's place in the program, so the number of workers changes no digit."""
    one, three, other = (
        launch([EXAMPLES / "pi.py"], n=n, options=["--seed", seed]).stdout
        for n, seed in ((1, "7"), (3, "7"), (3, "8"))
    )
    assert one == three
    assert one != other


def test_the_examples_in_docstrings_of_all_public_functions(launch_once):
    """Serially, and those of Executor with pools of their own. `tests/test_style.py` sees to it that all have one."""
    outcome = launch_once.serial("""
        import doctest, warnings
        import scoop_lite
        from scoop_lite import futures, shared

        if __name__ == "__main__":
            warnings.simplefilter("ignore")
            names = {"futures": futures, "shared": shared, "scoop_lite": scoop_lite}
            for module in names.values():
                print(doctest.testmod(module, extraglobs=names))
        """)  # fmt: skip
    results = outcome.stdout.splitlines()
    assert len(results) == 3 and all("failed=0" in line for line in results), outcome
