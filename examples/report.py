"""Show a trace as one page that needs nothing else: no script, no network; light or dark, as the reader prefers.

    $ python scoop_lite.py -n 4 --trace trace.json script.py
    $ python3 examples/report.py trace.json > report.html
    tasks 40, workers 4, hosts 2, time 10 s, busy 75%, faults 0, re-runs 0
"""
import json
import math
import sys
from collections import Counter
from html import escape
from itertools import groupby

PAGE = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>%(title)s</title><style>:root{color-scheme:light dark;--paper:#fcfcfb;--ink:#1d2126;--bad:#d0211c;--h:11px}
@media(prefers-color-scheme:dark){:root{--paper:#14171b;--ink:#e7eaee;--bad:#ff6a5f}}.f0{fill:#4a84e8}.f1{fill:#e39112}
.f2{fill:#1fa587}.f3{fill:#9a76e0}.f4{fill:#58b4e6}.f5{fill:#d06fa8}.fault{fill:var(--bad)}line{stroke:#8883}
.carve,.rerun,.bg,.wait,.f6,text{fill:var(--ink)}.bg{opacity:.07}.wait{opacity:.22}.f6{opacity:.45}h2{font-size:16px}
body{margin:auto;max-width:1180px;padding:20px 16px;background:var(--paper);color:var(--ink);font:13px/1.5 system-ui}
h1{font:600 20px ui-monospace,monospace}h1,p,dd{margin:0;overflow-wrap:anywhere}h2{margin:28px 0 4px}dd{font-size:17px}
dl{display:flex;flex-wrap:wrap;gap:8px}dl div{border:1px solid #8884;padding:6px 12px}.plot{padding:8px 24px 0 0;overflow:hidden}
span{margin-right:18px;display:inline-block}span svg{width:12px}svg{overflow:visible;flex:1}svg,rect{height:var(--h)}
.row{display:flex;margin-bottom:1px;line-height:var(--h);white-space:nowrap}b{width:76px;font-weight:400}text{font-size:
12px;text-anchor:middle}path{stroke:var(--paper)}</style><h1>%(title)s</h1><p style=color:var(--bad)>%(note)s
<dl>%(facts)s</dl><h2>Workers over time</h2>%(legend)s<div class=plot>%(timeline)s</div><h2>Tasks by length</h2>%(lengths)s"""
ROW = '<div class=row style="--h:{}px"><b>{}</b><svg>{}</svg></div>'
TICK = "<line x1={0:%} x2={0:%} y1=-60 y2=9999 /><text x={0:%} y=14>{1}</text>"
ICONS = {"fault": '<path class=fault d="M0-2L7 11H-7z"/>', "rerun": '<path class=rerun d="M0 0L5 6L0 12L-5 6z"/>'}
UNITS = (3.6e9, "h"), (6e7, "min"), (1e6, "s"), (1e3, "ms"), (1, "µs")
STEPS = [m * u for u in (1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 6e7, 6e8, 3.6e9, 3.6e10, 3.6e11) for m in (1, 2, 3)]


def human(us):
    """Return a time (µs) in words."""
    size, unit = next((pair for pair in UNITS if us >= pair[0] * 0.9995), UNITS[-1])
    return f"{us / size:.3g} {unit}" if us else "0"


def rect(css, x, width, title="", more=""):
    """Return a rectangle with its tooltip; x and width from 0 to 1, and never too thin to be seen."""
    size = max(width, 1e-3) - 5e-4  # a gap, so that neighbours can be told apart
    return f"<rect class={css} x={x:.2%} width={size:.2%} {more}><title>{escape(title, False)}</title></rect>"


def columns(label, css, bars, ticks):
    """Return a chart of bars (share of the height, title) side by side, and its axis of ticks (x from 0 to 1, text)."""
    sizes = [f'y={60 - 60 * share:.1f} style="--h:{60 * share:.1f}px"' for share, _ in bars]
    parts = [rect(css, i / len(bars), 1 / len(bars), title, sizes[i]) for i, (share, title) in enumerate(bars) if share]
    return ROW.format(60, label, "".join(parts)) + ROW.format(20, "", "".join(TICK.format(*tick) for tick in ticks))


def stretches(events):
    """Yield (start, end, event) for each stretch of a worker's time: what began last is what it was doing."""
    now, nested = 0, []
    for event in [*events, {"ts": math.inf}]:
        while nested and now < event["ts"]:
            if nested[-1]["end"] > now:
                since, now = now, min(nested[-1]["end"], event["ts"])
                yield since, now, nested[-1]
            else:
                nested.pop()
        nested.append(event)
        now = event["ts"]


class Report:
    """What the page shows of the events of a trace; times in µs; lanes are keyed by (host, rank) or (host, -1)."""

    def __init__(self, events):
        self.names = {(e["pid"], e.get("tid", -1)): e["args"]["name"] for e in events if e["name"].endswith("_name")}
        self.events = sorted((e for e in events if e["ph"] in "Xi"), key=lambda e: (e["ts"], -e.get("dur", 0)))
        origin, self.lanes, self.count = self.events[0]["ts"] if self.events else 0, {k: [] for k in self.names}, Counter()
        for e in self.events:  # a clock may read 0: a third of a µs is nearer to the truth, and has a logarithm
            args, time, length = e.get("args", {}), e["ts"] - origin, max(e.get("dur", 0), 0.3) * (e["ph"] == "X")
            e["ts"], e["end"], e["n"] = time, time + length, args.get("n", 1)
            facts = [f"{e['name']:.60}{args.pop('args', '')!s:.80}", f"{human(length)} from {human(time)}"]
            e["text"] = "\n".join(facts + [f"{key} {value!s:.90}" for key, value in args.items()])
            self.lanes.setdefault((e["pid"], e.get("tid", -1)), []).append(e)
            self.count[e["cat"]] += e["n"]
        self.span = max((e["end"] for e in self.events), default=0) or 1
        self.n_workers, self.spent, self.slots = sum(rank >= 0 for _, rank in self.lanes), Counter(), [0] * 200
        for start, end, e in (p for lane in self.lanes.values() for p in stretches(lane) if p[2]["cat"] == "task"):
            self.spent[e["name"]] += end - start
            first, last = 200 * start / self.span, 200 * end / self.span
            for i in range(int(first), min(math.ceil(last), 200)):
                self.slots[i] += (min(last, i + 1) - max(first, i)) / self.n_workers
        self.css = {name: f"f{min(i, 6)}" for i, (name, _) in enumerate(self.spent.most_common())}

    def bar(self, run):
        """Return one bar for a run of stretches: coloured by what took most of it, paler the less of it was work."""
        start, end, spent = run[0][0], run[-1][1], Counter()
        for since, until, e in run:
            spent[self.css[e["name"]] if e["cat"] == "task" else e["cat"]] += until - since
        share = sum(spent[css] for css in spent if css[0] == "f") / (end - start)
        n = sum(e["n"] for since, _, e in run if e["cat"] == "task" and since == e["ts"])
        text = f"{n:,} tasks, {share:.0%} busy\n{human(end - start)} from {human(start)}"
        return rect(spent.most_common(1)[0][0], start / self.span, (end - start) / self.span,
                    text if len(run) > 1 else run[0][2]["text"], f"opacity={0.3 + 0.7 * share:.2g}")

    def timeline(self, least):
        """Yield the share of busy workers, then a line for each; stretches below `least` µs are drawn together."""
        bars = [(share, f"{share:.0%} busy at {human(i * self.span / 200)}") for i, share in enumerate(self.slots)]
        step, height = next(s for s in STEPS if s * 5 >= self.span), max(5, min(20, 1000 // max(self.n_workers, 1)))
        yield columns("busy", "f6", bars, [(i * step / self.span, human(i * step)) for i in range(int(self.span // step) + 1)])
        for (host, rank), lane in sorted(self.lanes.items()):
            name = self.names.get((host, rank), f"{rank} on {host}")
            runs = groupby(stretches(lane), lambda p: p if p[1] - p[0] >= least else p[0] // least)
            parts = [rect("bg", 0, rank >= 0, name), *(self.bar(list(run)) for _, run in runs)]
            for e in {(e["cat"], e["ts"] // least): e for e in lane if e["ph"] == "i"}.values():
                icon = f"{ICONS[e['cat']]}<title>{escape(e['text'])}</title>"
                parts.append(f"<svg x={e['ts'] / self.span:%} y={height / 2 - 6}>{icon}</svg>")
            label = escape(name[:60] if rank < 0 else name[:11] * (rank % -(-13 // height) == 0))
            yield ROW.format(24 if rank < 0 else height, label, "".join(parts))

    def lengths(self):
        """Yield for each function a chart of how long its tasks took; all have the same logarithmic axis."""
        top, high = {name: Counter() for name, _ in self.spent.most_common(20)}, math.ceil(math.log10(self.span)) or 1
        for e in (e for e in self.events if e["cat"] == "task" and e["name"] in top):
            place = int(40 * math.log10((e["end"] - e["ts"]) / e["n"]) / high)
            top[e["name"]][max(0, min(39, place))] += e["n"]
        ticks = [(i / high, human(10 ** i)) for i in range(0, high + 1, 1 + high // 6)]
        for name, bins in top.items():
            titles = [f"{bins[i]:,} tasks of {human(10 ** (i * high / 40))} or more" for i in range(40)]
            bars = [(bins[i] / max(bins.values()), title) for i, title in enumerate(titles)]
            facts = f"{escape(name[:60])}: {sum(bins.values()):,} tasks, {human(self.spent[name])} of work"
            yield f'<div class=plot>{facts}{columns("tasks", self.css[name], bars, ticks)}</div>'


def main(path):
    """Print the page of the trace in this file, and on standard error what it holds."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line.strip(", \n") for line in file if line.endswith("\n")]
    events = [json.loads(line) for line in lines if line.strip("[]")]
    report = Report(events)
    facts = {"tasks": f"{report.count['task']:,}", "workers": report.n_workers,
             "hosts": len(report.lanes) - report.n_workers, "time": human(report.span),
             "busy": f"{sum(report.slots) / 200:.0%}", "faults": report.count["fault"], "re-runs": report.count["rerun"]}
    print(", ".join(f"{key} {value}" for key, value in facts.items()), file=sys.stderr)
    facts.update(pair for e in events if e["name"] == "scoop_lite" for pair in e["args"].items())
    kinds = {**{css: name[:40] for name, css in report.css.items()}, "f6": "other", "wait": "wait", "fault": "fault", "rerun": "re-run"}
    least = report.span / 1000
    while len(timeline := "".join(report.timeline(least))) > 1_400_000:
        least *= len(timeline) / 1_300_000
    sys.stdout.buffer.write((PAGE % {
        "title": escape(facts.pop("command", path)), "timeline": timeline, "lengths": "".join(report.lengths()),
        "note": "" if "]" in lines[-1:] else "The trace ends early: the run was killed, or is not over.",
        "facts": "".join(f"<div><dt>{escape(key)}<dd>{escape(str(value))}</div>" for key, value in facts.items()),
        "legend": "".join(f"<span><svg>{ICONS.get(css) or rect(css, 0, 1)}</svg> {escape(name)}</span>" for css, name in kinds.items())
    }).encode("utf-8", "replace"))


if __name__ == "__main__":
    main(sys.argv[1])
