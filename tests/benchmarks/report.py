"""From the numbers of all rounds to medians, intervals, tables and the plot."""

from __future__ import annotations

import math
import random
import statistics

import bars
import workloads

RESAMPLES = 2000
FLOOR = "floor: "


def interval(values):
    """Return the 95 % bootstrap interval of the median of a few values."""
    generator = random.Random(1)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1]


class Results:
    """All numbers: `rounds[workload][system]` is a list with one entry a round, {metric: value} or {"failure": text}.

    A peer at its best setting is a system of its own, with " (best)" after its name; a floor has "floor: " before it.
    """

    def __init__(self, rounds):
        self.rounds = rounds

    def by_round(self, workload, system, metric):
        """Return {number of the round: value} of one metric."""
        entries = self.rounds.get(workload, {}).get(system, [])
        return {index: entry[metric] for index, entry in enumerate(entries) if entry and metric in entry}

    def median(self, workload, system, metric):
        """Return the median over all rounds, or None."""
        values = list(self.by_round(workload, system, metric).values())
        return statistics.median(values) if values else None

    def gain(self, workload, ours, theirs, metric):
        """Return how many times better ours is: the median of the rounds that both have, and its interval; or None."""
        gain = workloads.BY_NAME[workload].metrics[metric].gain
        mine, other = self.by_round(workload, ours, metric), self.by_round(workload, theirs, metric)
        ratios = [gain(mine[index], other[index]) for index in mine if index in other]
        ratios = [ratio for ratio in ratios if not math.isnan(ratio)]
        return (statistics.median(ratios), *interval(ratios)) if ratios else None

    def failure(self, workload, system):
        """Return what went wrong with a system here: all of it, a part, or just its end; or nothing."""
        entries = [entry for entry in self.rounds.get(workload, {}).get(system, []) if entry]
        texts = [entry[key] for entry in entries for key in ("failure", "_failure", "_note") if key in entry]
        often = " (%d of %d rounds)" % (len(texts), len(entries)) if len(entries) > 1 else ""
        return texts[0] + often if texts else ""

    def peers(self, workload, metric):
        """Return the names of the peers, at either setting, that have this metric."""
        return [system for system in self.rounds.get(workload, {}) if not system.startswith((FLOOR, bars.OURS))
                and self.median(workload, system, metric) is not None]

    def best_peer(self, workload, metric, without=()):
        """Return the name of the best peer, or None."""
        higher = workloads.BY_NAME[workload].metrics[metric].higher
        names = [name for name in self.peers(workload, metric) if not name.startswith(tuple(without))]
        return (max if higher else min)(names, key=lambda name: self.median(workload, name, metric), default=None)

    def verdict(self, bar):
        """Return (measured, whether the bar is met), or None when the numbers are not there."""
        value = self.median(bar.workload, bar.system, bar.metric)
        if value is None:
            return None
        if bar.kind in ("least", "most"):
            return number(value), value >= bar.value if bar.kind == "least" else value <= bar.value
        other = self.other(bar)
        found = other and self.gain(bar.workload, bar.system, other, bar.metric)
        if not found:
            return None
        if bar.kind == "floor at most":
            times, highest, lowest = map(inverse, found)
            return "%.3g × [%.3g, %.3g]" % (times, lowest, highest), times <= bar.value
        named = " " + other if bar.kind == "every peer" else ""
        return "%.3g × [%.3g, %.3g]%s" % (*found, named), found[0] >= bar.value

    def other(self, bar):
        """Return the system that a bar compares with."""
        if bar.kind == "every peer":
            return self.best_peer(bar.workload, bar.metric, bars.NOT_PICKLING if bar.workload == "arrays" else ())
        return (FLOOR if bar.kind.startswith("floor") else "") + bar.against


def number(value):
    """Return a number with three digits that people can read."""
    if value is None:
        return "–"
    if math.isinf(value):
        return "never"
    for bound, suffix in ((1e6, " M"), (1e4, " k")):
        if abs(value) >= bound:
            return "%.3g%s" % (value / (1e6 if suffix == " M" else 1e3), suffix)
    return "%.0f" % value if abs(value) >= 1000 else "%.3g" % value


def inverse(value):
    """Return 1 / value, also for what never happened."""
    return 1 / value if value else math.inf


def ratio(found):
    """Return a ratio with its interval."""
    return "%.3g [%.3g, %.3g]" % found if found else "–"


def row(cells):
    """Return a line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def summary(results):
    """Return the table for README: a line per metric with ours, its floor and the best peer."""
    lines = [row(("#", "workload", "ours", "ours / floor", "best peer", "its value", "times better [95 %]")),
             row(("---",) * 7)]
    for workload in workloads.ALL:
        for key, metric in workload.metrics.items():
            for ours in ours_with(results, workload.name, key):
                lines.append(summary_row(results, workload, key, metric, ours))
    return "\n".join(lines)


def ours_with(results, workload, metric):
    """Return those of our own systems that have a number."""
    return [name for name in results.rounds.get(workload, {}) if name.startswith(bars.OURS)
            and results.median(workload, name, metric) is not None]


def summary_row(results, workload, key, metric, ours):
    """Return one line of the summary."""
    label = metric.label + (" (%s)" % ours if ours != bars.OURS else "")
    against = []
    for floor in metric.floors:
        found = results.gain(workload.name, ours, FLOOR + floor, key)
        if found:
            against.append("%.3g (%s)" % (found[0] if metric.higher else inverse(found[0]), floor))
    peer = results.best_peer(workload.name, key)
    return row((str(workload.number), label, "%s %s" % (number(results.median(workload.name, ours, key)), metric.unit),
                "; ".join(against) or "–", peer or "–", number(results.median(workload.name, peer, key)),
                ratio(peer and results.gain(workload.name, ours, peer, key))))


def bar_table(results):
    """Return the table of bars: measured, and whether each is met."""
    lines = [row(("#", "bar", "measured", "met")), row(("---",) * 4)]
    for bar in bars.ALL:
        verdict = results.verdict(bar)
        workload = workloads.BY_NAME[bar.workload]
        if verdict or bar.workload in results.rounds:
            label = workload.metrics[bar.metric].label + (" (%s)" % bar.system if bar.system != bars.OURS else "")
            measured, met = (verdict[0], "yes" if verdict[1] else "**no**") if verdict else ("not measured", "–")
            lines.append(row((str(workload.number), "%s: %s" % (label, bar.text()), measured, met)))
    return "\n".join(lines)


def details(results):
    """Return a table per metric with every system."""
    parts = []
    for workload in workloads.ALL:
        if workload.name in results.rounds:
            parts.append("### %d. %s" % (workload.number, workload.title))
            parts += [metric_table(results, workload, key) for key in workload.metrics]
            parts.append("\n".join(failures(results, workload.name)))
    return "\n\n".join(part for part in parts if part)


def metric_table(results, workload, key):
    """Return all systems' medians of one metric, best first, and how many times better each of ours is."""
    metric = workload.metrics[key]
    medians = {name: results.median(workload.name, name, key) for name in results.rounds[workload.name]}
    names = sorted((name for name in medians if medians[name] is not None), key=medians.get, reverse=metric.higher)
    ours = ours_with(results, workload.name, key)
    title = "%s, %s" % (metric.label, metric.unit)
    lines = [row((title, "median", "rounds", *(name + " is × better" for name in ours))),
             row(("---",) * (3 + len(ours)))]
    for name in names:
        gains = [ratio(results.gain(workload.name, one, name, key)) if one != name else "" for one in ours]
        lines.append(row((name, number(medians[name]), str(len(results.by_round(workload.name, name, key))), *gains)))
    return "\n".join(lines) if names else ""


def failures(results, workload):
    """Return a line for every system that failed, hung or was left out."""
    for name in results.rounds[workload]:
        why = results.failure(workload, name)
        if why:
            yield "- %s: %s" % (name, why)


COLOURS = ("#000000", "#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf",
           "#ff7f0e", "#1a55ff", "#a05195", "#665191")
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 860, 480, 60, 40, 240, 50


def plot(results):
    """Return an SVG of efficiency against task length: every system, by submit (solid) and by map (dashed)."""
    shapes, legend = axes(), []
    for name in sorted({name for kind in ("metg-submit", "metg-map") for name in results.rounds.get(kind, {})}):
        colour = COLOURS[len(legend) % len(COLOURS)]
        lines = [(kind, curve(results, kind, name)) for kind in ("metg-submit", "metg-map")]
        if any(points for _, points in lines):
            legend.append((name, colour))
        for kind, points in lines:
            if points:
                dash = ' stroke-dasharray="5 3"' if kind == "metg-map" else ""
                path = " ".join("%.1f,%.1f" % place(*point) for point in points)
                shapes.append('<polyline fill="none" stroke="%s" stroke-width="%g"%s points="%s"/>' % (
                    colour, 2.5 if name == bars.OURS else 1.3, dash, path))
    for index, (name, colour) in enumerate(legend):
        shapes.append('<text x="%d" y="%d" fill="%s">%s</text>' % (
            WIDTH - RIGHT + 15, TOP + 14 + 16 * index, colour, name))
    return ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">\n'
            '<rect width="100%%" height="100%%" fill="white"/>\n%s\n</svg>\n' % (WIDTH, HEIGHT, "\n".join(shapes)))


def curve(results, workload, system):
    """Return the median efficiency at each task length that at least half of the rounds have."""
    points, entries = {}, [entry for entry in results.rounds.get(workload, {}).get(system, []) if entry]
    for entry in entries:
        for us, value in entry.get("_curve", ()):
            points.setdefault(us, []).append(value)
    return [(us, statistics.median(values)) for us, values in sorted(points.items()) if 2 * len(values) >= len(entries)]


def place(us, efficiency):
    """Return where a point is in the picture."""
    return (LEFT + math.log10(us) / 5 * (WIDTH - LEFT - RIGHT),
            TOP + (1 - min(efficiency, 1.05)) * (HEIGHT - TOP - BOTTOM))


def axes():
    """Return the frame: decades of task length, quarters of efficiency, and the line at a half."""
    shapes = ['<text x="%d" y="22">Efficiency against task length; solid: submit, dashed: map</text>' % LEFT]
    for power, text in enumerate(("1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms")):
        x, bottom = place(10 ** power, 0)
        shapes.append('<path d="M%.1f %.1fV%d" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="middle">%s</text>'
                      % (x, bottom, TOP, x, bottom + 20, text))
    for quarter in range(5):
        x, y = place(1, quarter / 4)
        shapes.append('<path d="M%.1f %.1fH%d" stroke="%s"/><text x="%.1f" y="%.1f" text-anchor="end">%g</text>' % (
            x, y, WIDTH - RIGHT, "#888" if quarter == 2 else "#ddd", x - 8, y + 4, quarter / 4))
    return shapes
