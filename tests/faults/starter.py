"""A command that stands for ssh: ``starter.py DIRECTORY -- HOST WORD…`` runs the words in a shell, as a host of its
own.

As sshd would, it joins the words with blanks, gives them to a shell in a session of its own, and carries bytes
between its own standard input and output and the shell's. In between lies the *link*, which does what
DIRECTORY/link-HOST says (one line, looked at every 20 ms; the last one counts):

    ok                 carry everything
    cut                carry nothing, in either direction, not even the end of the file; what comes is kept for later
    rate BYTES_PER_S   carry no more than that in each direction
    delay SECONDS      carry everything that much later
    inject HEX         say these bytes once towards the launcher, in a pause of the traffic, then carry on
    repeat, drop, flip do this once to the next piece that goes to the launcher, then carry on
    end                close both directions

How it behaves at the start, by the host's name: ``refused``, ``unknown-key``, ``changed-key``, ``unreachable``,
``silent`` (says nothing, for ever), ``noisy`` (start-up files that print, and even without an end of line),
``no-python`` (no such command), ``half`` (the session ends a moment after the agent has spoken), ``babbling`` (so it
does, and something else is printed in one piece with that), ``huge-frame``, ``half-frame``; any other name works.
"""
from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time

#: What ssh itself says and how it exits, for the hosts that cannot be reached.
SSH_WORDS = {
    "refused": "ssh: connect to host refused port 22: Connection refused",
    "unknown-key": "Host key verification failed.",
    "changed-key": "@@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@@\nHost key verification failed.",
}
NOISE = b"Welcome to noisy!\r\nYou have 3 new messages.\n\x1b[1mprompt>\x1b[0m no end of line here"
PIECE = 65536


class Link:
    """One direction of the link, carried by one thread."""

    def __init__(self, directory, host, source, target, spoils):
        self.control = os.path.join(directory, "link-" + host)
        self.source, self.target = source, target
        self.spoils = spoils
        self.done_lines = 0

    def orders(self):
        """Return the lines of the control file."""
        try:
            with open(self.control, encoding="ascii") as file:
                return file.read().split("\n")[:-1]
        except FileNotFoundError:
            return []

    def mode(self):
        """Return the words of the order that holds now; one-time orders are the caller's, once."""
        orders = self.orders()
        if not orders:
            return ["ok"]
        words = orders[-1].split()
        once = words[0] in ("inject", "repeat", "drop", "flip")
        if once and (not self.spoils or self.done_lines >= len(orders)):
            return ["ok"]
        return words

    def carry(self):
        """Carry bytes until the source ends or the target has gone."""
        try:
            while self.step():
                pass
        except OSError:
            pass  # the other side has gone: closing ours below says so to whoever is left
        while self.mode()[0] == "cut":
            time.sleep(0.02)  # on a cut link the end of the file does not arrive either
        os.close(self.target)

    def step(self):
        """Carry one piece, as the order of the moment wants it. Return False at the end of the file."""
        words = self.mode()
        if words[0] == "end":
            return False
        if words[0] == "cut":
            time.sleep(0.02)
            return True
        ready = select.select([self.source], [], [], 0.02)[0]
        if words[0] == "inject" and not ready:
            self.write(bytes.fromhex(words[1]))
            self.done_lines = len(self.orders())
        if not ready:
            return True
        size = max(1, int(float(words[1]) * 0.05)) if words[0] == "rate" else PIECE
        piece = os.read(self.source, size)
        self.write(self.spoiled(words, piece))
        return bool(piece)

    def spoiled(self, words, piece):
        """Return what becomes of a piece on its way, after the time that it takes."""
        if words[0] == "rate":
            time.sleep(0.05)
        elif words[0] == "delay":
            time.sleep(float(words[1]))
        if words[0] not in ("repeat", "drop", "flip"):
            return piece
        self.done_lines = len(self.orders())
        if words[0] == "flip":
            return bytes([piece[0] ^ 0x80]) + piece[1:] if piece else piece
        return piece * 2 if words[0] == "repeat" else b""

    def write(self, data):
        """Write all of it."""
        while data:
            data = data[os.write(self.target, data):]


def main():
    """Play the host named on the command line."""
    directory, dashes, host = sys.argv[1:4]
    assert dashes == "--"
    with open(os.path.join(directory, "starts"), "a", encoding="utf-8") as file:
        file.write("%s %d %r\n" % (host, os.getpid(), sys.argv[4:]))
    if host in SSH_WORDS:
        sys.stderr.write(SSH_WORDS[host] + "\n")
        return 255
    if host in ("silent", "unreachable"):
        time.sleep(600)
    return serve(directory, host, " ".join(sys.argv[4:]))


def serve(directory, host, shell_words):
    """Run the remote command and carry its bytes until it ends; return its status."""
    if host == "no-python":
        shell_words = "no-such-python3"
    far_end = subprocess.Popen(["/bin/sh", "-c", shell_words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               start_new_session=True, env=dict(os.environ, FAULT_HOST=host))
    if host == "noisy":
        os.write(1, NOISE)
    away = Link(directory, host, 0, os.dup(far_end.stdin.fileno()), spoils=False)
    home = Link(directory, host, far_end.stdout.fileno(), os.dup(1), spoils=True)
    far_end.stdin.close()
    os.close(1)
    threading.Thread(target=away.carry, daemon=True).start()
    if host in ("half", "babbling", "half-frame", "huge-frame"):
        return end_badly(host, home)
    home.carry()
    return far_end.wait()


def end_badly(host, home):
    """Carry the agent's first words, then break off in the way that the host's name says."""
    while not select.select([home.source], [], [], 30)[0]:
        pass
    home.write(os.read(home.source, PIECE) + b"You have mail.\n" * (host == "babbling"))
    time.sleep(0.1)
    if host == "half-frame":
        home.write(b"\x02\x00\x00\x00\x00\x00\x00\x03\xe8half a frame of 1000 bytes")
    elif host == "huge-frame":
        home.write(b"\x02\x80" + b"\x00" * 7)
        flood(home)
    os.close(home.target)
    time.sleep(0.1)  # a command may end a moment after its output: why it did must be told nevertheless
    os._exit(255)


def flood(home):
    """Fill the frame that was announced, until the launcher puts an end to it."""
    try:
        while True:
            home.write(b"x" * PIECE)
    except OSError:
        pass  # it closed the pipe, as it should


if __name__ == "__main__":
    sys.exit(main())
