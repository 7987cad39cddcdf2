"""The state machines under simulation: see `simulation.py`. Every failure here names the seed that replays it."""

from __future__ import annotations

import pytest

pytest.importorskip("greenlet", reason="greenlet is not installed: virtual tasks are greenlets")
import simulation  # noqa: E402

# Runs that found something once: (seed, workers, events, faults), and what it was.
FOUND = [
    (80, 8, 2000, False, "the origin's script never came back from a strand that became ready at its end"),
    (30, 8, 2000, False, "a cancelled future was counted twice among the stale ones"),
    (17, 100, 20_000, False, "a chunk of which something was cancelled was OPENED for nothing, or passed on whole"),
    (70, 8, 2000, True, "the origin kept a task suspected of a death for ever: hungry itself, it got no order for it"),
    (52, 8, 2000, True, "the broker remembered for ever the OPENED of a chunk whose owner had died"),
    (2221, 60, 8000, None, "a strand that ended while it waited for the answer to a cancellation left its note behind"),
    (2605, 60, 8000, None, "workers that came up when the job had just ended were not told"),
    (6574, 60, 8000, None, "each hungry worker cost some forty orders: given to all, and withdrawn from all"),
    (102275, 100, 10_000, None, "without retries a robbed slice travelled whole, and what was run of it was run again"),
    (100353, 100, 10_000, None, "without retries a task that had begun on a lost host was run again"),
    (1000341, 100, 20_000, None, "OPENED waited for credit behind pieces, and nobody was blamed for a death"),
    (600227, 100, 20_000, None, "tasks that a time limit kept from running here were kept from others, too"),
]


@pytest.mark.parametrize("seed, workers, events, faults, what", FOUND, ids=lambda value: "")
def test_what_was_found_once(seed, workers, events, faults, what):
    assert simulation.Simulation(seed, workers, events, faults).run() == [], what


def test_a_welcome_was_obeyed_after_what_had_come_later():
    assert simulation.Simulation(232, 12, 3000, True, pieces=True).run() == []


@pytest.mark.parametrize("pieces", (False, True), ids=("", "in pieces"))
@pytest.mark.parametrize("faults", (False, True), ids=("no faults", "faults"))
@pytest.mark.parametrize("workers, seeds", ((3, 50), (20, 30), (200, 10)))
def test_seeds(workers, seeds, faults, pieces):
    for seed in range(seeds):
        violations = simulation.Simulation(seed, workers, 2000, faults, pieces=pieces).run()
        assert not violations, f"seed {seed}, {workers} workers: {violations[0]}"


def test_a_thousand_workers():
    assert simulation.Simulation(1, 1000, 10_000, faults=False, full=True).run() == []
