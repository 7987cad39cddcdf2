"""Put on PYTHONPATH by a test that must know which processes look up what a pickle names."""
import os
import sys


def note(event, arguments):
    if event == "pickle.find_class":
        path = os.path.join(os.environ["FAULT_DIR"], "unpickled-%d" % os.getpid())
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


sys.addaudithook(note)
