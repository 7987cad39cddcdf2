"""The benchmark's own virtual environment: made once per Python and list of pins, kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
PINS = HERE / "pins.txt"
INSTALL_LIMIT_S = 900


def default_directory():
    """Return where the environment of this Python and these pins belongs."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    digest = hashlib.sha256(PINS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    return cache / "scoop_lite-benchmarks" / digest


class Environment:
    """A virtual environment and what could not be installed into it.

    Args:
        directory: Where it is or will be.
    """

    def __init__(self, directory):
        self.directory = pathlib.Path(directory).resolve()
        self.bin = self.directory / "bin"
        self.python = str(self.bin / "python")
        self.record = self.directory / "installed.json"
        self.failures = {}      # name of a system -> why its packages are not there

    def prepare(self, systems, tell):
        """Create the environment and install what these systems need; remember what cannot be installed.

        Args:
            systems: Classes of systems.
            tell: Called with one line of progress.
        """
        known = json.loads(self.record.read_text()) if self.record.exists() else {}
        wanted = [system for system in systems if system.distributions and known.get(system.name) != ""]
        if wanted:
            tell("installing into %s: %s" % (self.directory, " ".join(system.name for system in wanted)))
            if not pathlib.Path(self.python).exists():
                subprocess.run([sys.executable, "-m", "venv", str(self.directory)], check=True)
            known.update(self.install(wanted))
            self.record.write_text(json.dumps(known, indent=1))
        self.failures = {name: why for name, why in known.items() if why}

    def install(self, systems):
        """Install all at once, or, when that fails, each by itself; return the failures by name ("" is success)."""
        if not self.pip(sorted({name for system in systems for name in system.distributions})):
            return {system.name: "" for system in systems}
        return {system.name: self.pip(system.distributions) for system in systems}

    def pip(self, distributions):
        """Install distributions at their pinned versions; return pip's last words, or nothing when it went well."""
        command = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1",
                   "--constraint", str(PINS), *distributions]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True,
                                  timeout=INSTALL_LIMIT_S)
        except subprocess.TimeoutExpired:
            return "not installed within %d s" % INSTALL_LIMIT_S
        lines = [line for line in done.stdout.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        return "cannot be installed: " + lines[-1] if done.returncode else ""

    def versions(self):
        """Return the installed versions of all pinned distributions that the systems name."""
        code = ("import importlib.metadata as m, json; "
                "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions()}))")
        return json.loads(subprocess.run([self.python, "-c", code], stdout=subprocess.PIPE, check=True).stdout)
