"""The program that a run executes: builds one system, drives one workload through it, and tells the result."""

from __future__ import annotations

import json
import os
import socket
import traceback


class Channel:
    """The line to the benchmark: one JSON object a line, each way.

    Args:
        path: The UNIX socket's file.
    """

    def __init__(self, path):
        self.link = socket.socket(socket.AF_UNIX)
        self.link.connect(path)
        self.reader = self.link.makefile("rb")

    def tell(self, event, **fields):
        """Send a message that has no answer."""
        self.link.sendall(json.dumps(dict(fields, event=event)).encode() + b"\n")

    def ask(self, event, **fields):
        """Send a message and return its answer."""
        self.tell(event, **fields)
        return json.loads(self.reader.readline())


def drive(job, channel):
    """Tell the numbers that one workload gives, then stop the system that gave them."""
    import systems
    import workloads
    workload = workloads.BY_NAME[job["workload"]]
    if job["system"] == "floor":
        channel.tell("result", metrics=workload.floor(job))
        return
    system = systems.BY_NAME[job["system"]](job["workers"], job["workload"] if job["best"] else "")
    if workload.warm:
        workloads.all_up(system, job["workers"], 0.01)
    channel.tell("result", metrics=workload.drive(system, channel, job))
    system.close()


def main():
    """Do the job that the environment names."""
    import running
    with open(os.environ[running.JOB]) as file:
        job = json.load(file)
    channel = Channel(job["channel"])
    try:
        drive(job, channel)
    except Exception as error:      # any failure is a result of the benchmark: it is told, and then raised as it is
        last = traceback.format_exception_only(type(error), error)[-1].strip()
        channel.tell("failure", text=last[:300])
        raise


if __name__ == "__main__":
    main()
