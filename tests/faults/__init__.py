"""What the fault suite is made of: runs watched from outside, faults to inject, and hosts that are not there.

Modules: ``processes`` reads /proc; ``jobs`` starts a run and watches it; ``starter`` is the command that stands for
ssh, with a link that can be cut, slowed and spoiled; ``system`` holds what needs root or a kernel feature, and the
reason for skipping. ``inside/`` is imported by the programs under test, never by the tests.
"""
