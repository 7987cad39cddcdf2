"""README: its tables say what the file says, what it names exists, and its first command works.

`python3 tests/test_readme.py` prints the message table for README.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(CHECKOUT))

import scoop_lite  # noqa: E402

WORD_COUNT = "python3 scoop_lite.py -n 4 examples/word_count.py"
SET_UP = """\
python3 -m venv .venv
.venv/bin/pip install -q '.[test]'
.venv/bin/python -m pytest -q -n 3 --reruns 2 -m "not slow and not soak and not cluster" --combos=quick tests
"""


def readme():
    return (CHECKOUT / "README.md").read_text(encoding="utf-8")


def between(name):
    """The text between the two markers of a table."""
    parts = readme().split(f"<!-- {name} -->\n")
    assert len(parts) == 3, f"README needs <!-- {name} --> twice"
    return parts[1]


def blocks(language=""):
    """The fenced blocks of one language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", readme(), re.MULTILINE | re.DOTALL)
    return [text for its_language, text in fenced if its_language == language]


def message_table():
    """The message table as README shows it."""
    lines = ["| Message | Direction | Frames | When | Answered by |", "|---|---|---|---|---|"]
    for row in scoop_lite.MESSAGES:
        cells = (f"`{row.name}`", row.direction, row.frames, row.when, row.answer)
        lines.append("".join("| %s " % cell.replace("|", "\\|") if cell else "| " for cell in cells) + "|")
    return "\n".join(lines) + "\n"


def banners():
    """The titles of the file's sections, in order."""
    source = (CHECKOUT / "scoop_lite.py").read_text(encoding="utf-8")
    return re.findall(r"^# ={20,}\n# (.+?)(?::|   ).*\n# ={20,}$", source, re.MULTILINE)


def words_of(text):
    """Options, without the `-` and `--` of other text."""
    return set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", text))


# ---------------------------------------------------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------------------------------------------------


def test_message_table_is_that_of_the_file():
    assert between("messages") == message_table(), "`python3 tests/test_readme.py` prints the table for README"


def test_every_answer_in_the_message_table_is_a_message():
    names = {row.name for row in scoop_lite.MESSAGES}
    assert {answer for row in scoop_lite.MESSAGES for answer in re.findall(r"\w+", row.answer)} <= names


def test_options_are_those_of_the_help_page(launch_once):
    page = launch_once(["--help"], n=None).stdout
    lines = re.findall(r"^  (-.*?)(?:  .*)?$", page, re.MULTILINE)
    described = [line.split("|")[1] for line in between("options").splitlines()[2:]]
    assert words_of(" ".join(described)) == words_of(" ".join(lines))
    assert len(described) == len(lines), "one row for each option"


def test_options_that_the_text_names_are_ours_or_of_a_tool_that_it_runs():
    ours = {flag for action in scoop_lite.parser()._actions for flag in action.option_strings}
    inline = " ".join(re.findall(r"`(-[^`]*)`", readme()))
    tools = "".join(path.read_text(encoding="utf-8") for path in (CHECKOUT / "tests").rglob("*.py"))
    theirs = {"-p", "-J", *re.findall(r'add(?:_argument|option)?\("(--[a-z-]+)"', tools)}  # of ssh; of our tests' tools
    assert words_of(inline) - ours <= theirs


def test_defaults_that_text_and_help_page_name_are_those_of_the_options():
    named = dict(re.findall(r"^\| `(--[\w-]+)` \|.*?\((\d+)\)", between("options"), re.MULTILINE))
    actions = {flag: action for action in scoop_lite.parser()._actions for flag in action.option_strings}
    assert {"--retries", "--restarts", "--seed", "--heartbeat", "--dead-after", "--join-timeout"} <= set(named)
    for flag, number in named.items():
        assert actions[flag].default == float(number) and f"(default: {number})" in actions[flag].help, flag


@pytest.mark.parametrize("sentence, number", [
    ("a connection without a proof is cut after {:g} s", scoop_lite.DOOR_S),
    ("and at most {} wait", scoop_lite.MAX_CALLERS),
    ("Before that, {} bytes are read and nothing is parsed", scoop_lite.Door.PROOF.size),
    ("Two signals within {:g} s are one", scoop_lite.TWICE_S),
    ("after {:g} s their agent kills who has not", scoop_lite.STOP_GRACE_S),
    ("nothing is heard from a host for {:g} s", scoop_lite.END_S),
    ("From {:,} of them on, a worker takes no more foreign tasks", scoop_lite.MAX_PARKED["thread"]),
    ("prints a plain line every {:g} s", scoop_lite.PLAIN_S),
    ("for the first {:,} chunks of each worker", scoop_lite.ALL_DRAWN),
    ("at most {} MiB of each worker at a time", scoop_lite.PIECES_AHEAD * scoop_lite.PIECE >> 20),
    ("from its workers while {} MiB wait for the launcher", scoop_lite.BACKLOG >> 20),
    ("of what they print while {} MiB wait for the terminal", scoop_lite.OUTPUT_WINDOW >> 20),
    ("does not join within {:g} s", scoop_lite.JOIN_S),
    ("a run of more than {} seconds shows one line", {2: "two"}.get(scoop_lite.QUIET_S)),
    ("its hosts are tried again, up to {} times", {6: "five"}.get(scoop_lite.MAX_TRIES)),
])  # fmt: skip
def test_limits_that_the_text_names_are_those_of_the_file(sentence, number):
    assert sentence.format(number) in " ".join(readme().split())


def test_sections_of_the_tour_are_those_of_the_file():
    named = [line.split("|")[1].strip() for line in between("sections").splitlines()[2:]]
    assert named == banners()


# ---------------------------------------------------------------------------------------------------------------------
# Names
# ---------------------------------------------------------------------------------------------------------------------


def test_tests_that_the_text_names_exist():
    defined = set()
    for path in (CHECKOUT / "tests").glob("test_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", readme()))
    assert named and named <= defined


def test_files_that_the_text_names_exist():
    named = re.findall(r"(?<![\w/.])((?:examples|tests|\.ci)/[\w./*-]*)", readme())
    assert named
    missing = [name for name in named if not list(CHECKOUT.glob(name.rstrip("/.")))]
    assert not missing


def test_every_example_is_named():
    files = [path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "examples").rglob("*.*")
             if path.suffix in (".py", ".sh", ".ipynb")]
    assert [name for name in files if name not in readme()] == []


def test_calls_of_the_interface_exist():
    named = set(re.findall(r"`(futures|shared|scoop_lite)\.(\w+)", readme()))
    missing = [name for name in named if name[1] != "py" and not hasattr(
        {"scoop_lite": scoop_lite}.get(name[0]) or getattr(scoop_lite, name[0]), name[1])]
    assert named and not missing


def test_an_engine_has_what_the_text_says():
    text = re.search(r"^\*\*An engine:\*\*(.*?)as `ZmqLink` has them", readme(), re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`(\w+)`", text.group(1)))
    public = {name for name in vars(scoop_lite.ZmqLink) if not name.startswith("_")}
    assert named == public


def test_contents_lead_somewhere():
    titles = re.findall(r"^##+ (.+)$", readme(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    links = set(re.findall(r"\]\(#([\w-]+)\)", readme()))
    assert links and links <= anchors


def test_the_length_it_states_is_about_right():
    (stated,) = re.findall(r"about ([\d,]+) lines", readme())
    lines = (CHECKOUT / "scoop_lite.py").read_text(encoding="utf-8").count("\n")
    assert abs(int(stated.replace(",", "")) - lines) <= lines / 10


# ---------------------------------------------------------------------------------------------------------------------
# Commands and programs
# ---------------------------------------------------------------------------------------------------------------------


def test_the_commands_stand_alone_in_their_blocks():
    """The first block with pytest in it is what `.ci/run` runs."""
    assert WORD_COUNT + "\n" in blocks()
    assert [block for block in blocks() if "pytest" in block][0] == SET_UP


def test_the_first_command_works(launch_once, tmp_path):
    """With a small directory in place of the standard library: tests/test_examples.py counts that."""
    (tmp_path / "words.py").write_text("one = two = two\n")
    words = WORD_COUNT.split()[4:]
    outcome = launch_once([CHECKOUT / words[0], tmp_path], n=4)
    assert outcome.returncode == 0, outcome
    assert outcome.stdout.split() == "2 two 1 one 3 words, 2 of them different, in 1 files".split()


@pytest.mark.parametrize("what", ["../project", "stick"])
def test_commands_of_vendoring_and_air_gapped_set_up_work(what, tmp_path):
    """In a directory that holds what a clone does."""
    clone = tmp_path / "clone"
    clone.mkdir()
    shutil.copyfile(CHECKOUT / "scoop_lite.py", clone / "scoop_lite.py")
    commands = "".join(block for block in blocks() if what in block)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=clone, stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == 0 and b"scoop_lite.py: OK\n" in done.stdout


def expect_stated(outcome):
    assert outcome.returncode == 0 and f"prints `{outcome.stdout.strip()}`" in readme().replace("\n", " "), outcome


def test_hello_world_prints_what_the_text_says(launch_once):
    expect_stated(launch_once(blocks("python")[0]))


def test_the_program_with_an_executor_prints_what_the_text_says(launch_once):
    (program,) = [block for block in blocks("python") if "Executor" in block]
    expect_stated(launch_once.serial(program))


if __name__ == "__main__":
    print(message_table(), end="")
