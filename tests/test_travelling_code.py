"""How a worker on another host finds the user's modules: its import hook, and what the launcher answers to it.

Both are in this process, under two names of one directory; over ssh it is tried in `test_hosts.py`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pkgutil
import shutil
import sys
import threading
import traceback

import pytest

import scoop_lite
from scoop_lite import Config, Shipper

FILES = {
    "travelling_helper.py": "import pkgutil\nimport travelling_package.inner as inner\n\n\n"
    "def fail():\n    raise ValueError  # this very line\n",
    "travelling_package/__init__.py": "",
    "travelling_package/inner.py": "VALUE = 42\n",
    "travelling_package/data.txt": "data",
    "travelling_space/deep.py": "VALUE = 43\n",
}


class Far:
    """The place of the files on the launcher's host, and a name for it on another, where nothing is."""

    def __init__(self, place, root):
        self.place, self.root, self.asked = str(place), root, []
        self.config = Config(directory=str(place.parent), root=str(place), program="program.py")

    def there(self, path):
        return path.replace(self.root, self.place, 1)

    def fetch(self, paths, have):
        """What the launcher answers to a FETCH, as `Runtime.fetch` hands it on."""
        self.asked.append(paths)
        have = {self.there(path): digest for path, digest in have.items()}
        request = {"number": 7, "paths": list(map(self.there, paths)), "have": have}
        frames = scoop_lite.read_library(self.config, request)
        found = json.loads(frames[0])
        assert found["number"] == 7
        if found["path"] is not None:
            found["path"] = found["path"].replace(self.place, self.root, 1)
        return found, bytes(frames[1])


@pytest.fixture(params=("directory", "archive"))
def far(request, tmp_path, monkeypatch):
    place = tmp_path / "app"
    for name, text in FILES.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    if request.param == "archive":
        shutil.make_archive(str(place), "zip", str(place))
        shutil.rmtree(str(place))
        place = tmp_path / "app.zip"
    made = Far(place, str(tmp_path / "elsewhere"))
    made.fetch([made.root], {})  # the launcher is no other process here: what it imports must not ask itself
    made.shipper = Shipper(made.root, made.fetch)
    monkeypatch.setitem(scoop_lite._state, "shipper", made.shipper)
    monkeypatch.setattr(sys, "meta_path", [made.shipper, *sys.meta_path])
    yield made
    for name in [name for name in sys.modules if name.startswith("travelling_")]:
        del sys.modules[name]


def test_modules_packages_and_their_data_come_from_the_launchers_host(far):
    helper = importlib.import_module("travelling_helper")
    assert helper.inner.VALUE == 42 and helper.__file__ == os.path.join(far.root, "travelling_helper.py")
    assert pkgutil.get_data("travelling_package", "data.txt") == b"data"
    assert not os.path.exists(far.root)
    try:
        helper.fail()
    except ValueError as error:
        assert "raise ValueError  # this very line" in "".join(traceback.format_tb(error.__traceback__))


def test_a_directory_without_init_is_a_package_too(far):
    assert importlib.import_module("travelling_space.deep").VALUE == 43
    assert list(sys.modules["travelling_space"].__path__) == [os.path.join(far.root, "travelling_space")]


def test_what_is_not_there_is_found_here_or_nowhere(far):
    asked = len(far.asked)
    assert far.shipper.find_spec("json") is None and far.shipper.find_spec("json.decoder", ["/usr/lib/json"]) is None
    assert far.asked[asked:] == [[far.root]]  # its names are asked for once; no others are asked for at all
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("travelling_package.absent")
    with pytest.raises(FileNotFoundError):
        far.shipper.get(os.path.join(far.root, "absent.txt"))
    assert far.shipper.get(__file__) == open(__file__, "rb").read()


def test_what_lies_here_with_the_same_content_is_not_sent(tmp_path):
    (tmp_path / "app").mkdir()
    path = tmp_path / "app" / "same.py"
    path.write_bytes(b"VALUE = 1\n")
    far = Far(tmp_path / "app", str(tmp_path / "app"))
    right, wrong = hashlib.sha256(b"VALUE = 1\n").hexdigest(), hashlib.sha256(b"VALUE = 2\n").hexdigest()
    assert far.fetch([str(path)], {str(path): right}) == (
        {"number": 7, "path": str(path), "file": True, "same": True}, b"")  # fmt: skip
    assert far.fetch([str(path)], {str(path): wrong})[1] == b"VALUE = 1\n"
    shipper = Shipper(far.root, far.fetch)
    assert shipper.get(str(path)) == b"VALUE = 1\n" and shipper.contents == {str(path): b"VALUE = 1\n"}


def test_an_archive_that_lies_here_too_is_asked_for_once(tmp_path, monkeypatch):
    """Its digest is told along: what computes that may have to be imported for the first time."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "travelling_module.py").write_text("VALUE = 1\n")
    place = shutil.make_archive(str(tmp_path / "app"), "zip", str(tmp_path / "app"))
    far = Far(tmp_path / "app.zip", place)
    far.fetch([place], {})
    asked = len(far.asked)
    monkeypatch.setattr(sys, "meta_path", [Shipper(far.root, far.fetch), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "hashlib")
    assert sys.meta_path[0].find_spec("travelling_module").origin == os.path.join(place, "travelling_module.py")
    assert far.asked[asked:].count([place]) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_what_is_no_file_here_is_not_waited_for(tmp_path):
    for place in ("app", "elsewhere"):
        (tmp_path / place).mkdir()
    (tmp_path / "app" / "travelling_fifo.py").write_text("VALUE = 1\n")
    os.mkfifo(tmp_path / "elsewhere" / "travelling_fifo.py")
    path = str(tmp_path / "elsewhere" / "travelling_fifo.py")
    shipper = Shipper(str(tmp_path / "elsewhere"), Far(tmp_path / "app", str(tmp_path / "elsewhere")).fetch)
    found = []
    thread = threading.Thread(target=lambda: found.append(shipper.get(path)), daemon=True)
    thread.start()
    thread.join(5)
    assert found == [b"VALUE = 1\n"]


@pytest.mark.parametrize("spoil", [
    lambda data: b"PK\3\4 half written",
    lambda data: data[: len(data) // 2],
    lambda data: data.replace(data[40:80], bytes(40)),  # of what is compressed
], ids=["begun", "half", "other data"])  # fmt: skip
def test_what_cannot_be_read_from_an_archive_is_not_there(tmp_path, spoil):
    """It may be written anew while its program runs."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "a.py").write_text(repr([*range(500)]))
    place = tmp_path / "app.zip"
    shutil.make_archive(str(tmp_path / "app"), "zip", str(tmp_path / "app"))
    far = Far(place, str(place))
    assert far.fetch([str(place / "a.py")], {})[0]["file"]
    place.write_bytes(spoil(place.read_bytes()))
    assert far.fetch([str(place / "a.py")], {}) == ({"number": 7, "path": None}, b"")


def test_the_launcher_gives_the_program_and_what_is_below_its_directory_only(tmp_path):
    for name in ("app/inside.py", "app-secret/key", "outside.py", "program.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    far = Far(tmp_path / "app", str(tmp_path / "app"))
    for path in ("app-secret/key", "outside.py", "app/../outside.py", "/etc/hostname"):
        assert far.fetch([str(tmp_path / path)], {}) == ({"number": 7, "path": None}, b""), path
    assert far.fetch(["program.py"], {})[1] == b"program.py"
    found = far.fetch([str(tmp_path / "outside.py"), str(tmp_path / "app" / "inside.py")], {})
    assert found[1] == b"app/inside.py"


def test_a_script_given_by_a_path_through_a_link_travels(tmp_path):
    """Workers ask for it by the directory that the user is in and the path that he gave; its root is the real one."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "program.py").write_text("VALUE = 1")
    (tmp_path / "link").symlink_to("real")
    config = Config(directory=str(tmp_path), root=str(tmp_path / "real"), program="link/program.py")
    for path in (config.program, config.script):
        assert scoop_lite.read_library(config, {"number": 1, "paths": [path], "have": {}})[1] == b"VALUE = 1"
    assert scoop_lite.read_library(config, {"number": 1, "paths": ["/etc/passwd"], "have": {}})[1] == b""
