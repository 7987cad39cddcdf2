"""The bars: what this project has promised itself, for two workers on two cores, Python 3.11, greenlet."""

from __future__ import annotations

OURS = "scoop_lite"
EXECUTOR = "scoop_lite.Executor"


class Bar:
    """One promise about one metric.

    Args:
        metric: "workload.metric".
        kind: "least" or "most": the value itself; "floor" or "floor at most": in units of a floor; "peer" or "every
            peer": how many times better.
        value: The bound.
        against: Name of the floor or of the peer (a peer's setting after a slash).
        system: Which of our systems.
    """

    def __init__(self, metric, kind, value, against="", system=OURS):
        self.workload, self.metric = metric.split(".")
        self.kind = kind
        self.value = value
        self.against = against
        self.system = system

    def text(self):
        """Return the bar in words."""
        sign = {"least": "≥ %g", "most": "≤ %g", "peer": "≥ %g × %s", "every peer": "≥ %g × every peer",
                "floor": "≥ %g × %s", "floor at most": "≤ %g × %s"}[self.kind]
        return sign % ((self.value, self.against) if sign.count("%") == 2 else self.value)


ALL = (
    [Bar("map." + key, *rest) for key in ("range", "list") for rest in (
        ("peer", 1.4, "multiprocessing.Pool"), ("floor", 0.7, "two processes"), ("peer", 1000, "ProcessPoolExecutor"))]
    + [Bar("submit.rate", "every peer", 20),
       Bar("submit.rate", "every peer", 5, system=EXECUTOR),
       Bar("metg-submit.metg", "most", 10),
       Bar("metg-map.metg", "most", 4),
       Bar("fib.rate", "peer", 60, "scoop"),
       Bar("tree.rate", "peer", 60, "scoop"),
       Bar("quicksort.speedup", "least", 1.6),
       Bar("latency.p50", "floor at most", 3, "AF_UNIX ping-pong", EXECUTOR),
       Bar("latency.p50", "every peer", 1, system=EXECUTOR),
       Bar("latency.idle_p50", "most", 1000, system=EXECUTOR)]
    + [Bar("arrays.%s_%d" % (key, mb), "every peer", 2, system=system)
       for system in (OURS, EXECUTOR) for key in ("out", "back", "all") for mb in (1, 16, 64)]
    + [Bar("arrays.peak", "most", 3, system=system) for system in (OURS, EXECUTOR)]
    + [Bar("irregular." + key, "least", 0.97) for key in ("uniform", "lognormal", "last", "longest_first")]
    + [Bar("generations." + key, "every peer", 1) for key in ("few_long", "few", "few_short", "many_short")]
    + [Bar("start.start_2", "floor at most", 8, "bare interpreter"),
       Bar("start.start_2", "floor at most", 6, "bare interpreter", "scoop_lite-m"),
       Bar("start.start_2", "every peer", 1),
       Bar("start.start_64", "most", 0.5),
       Bar("pending.bytes", "most", 300),
       Bar("pending.drain", "least", 200_000)]
    + [Bar("sleepers.long_%d" % n, "least", 0.97) for n in (64, 256, 1000)]
    + [Bar("sleepers.short_256", "least", 0.9), Bar("sleepers.short_1000", "least", 0.75),
       Bar("sleepers.up_1000", "most", 4)]
    + [Bar("sleepers.memory_%d" % n, "most", 4) for n in (64, 256, 1000)]
    + [Bar("relay.submit_broker", "most", 3), Bar("relay.alone_broker", "most", 25), Bar("idle.share", "most", 0.05)])

#: Peers that move arrays without pickling them: they stand beside ours in the table, and no bar is about them.
NOT_PICKLING = ("joblib", "ray")
