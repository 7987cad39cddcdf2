"""Show a trace as one page that needs nothing else: no script, no network; light or dark, as the reader prefers.

    $ python scoop_lite.py -n 4 --trace trace.json script.py
    $ python3 examples/report.py trace.json > report.html
    tasks 40, workers 4, hosts 2, time 10 s, busy 75%, faults 0, re-runs 0, trace whole
"""
import json
import math
import sys
from collections import Counter
from html import escape
from itertools import groupby

PAGE = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>%(title)s</title><style>:root{color-scheme:light dark;--paper:#fcfcfb;--ink:#1d2126;--h:11px}.f0{fill:#4a84e8}
@media(prefers-color-scheme:dark){:root{--paper:#14171b;--ink:#e7eaee}}.f1{fill:#c97d0c}.f2{fill:#1a9f82}
.f3{fill:#9a76e0}.f4{fill:#8d922c}.f5{fill:#d06fa8}.fault{fill:#e5383b}.carve,.rerun,.bg,.wait,.f6,text{fill:var(--ink)}
.bg{opacity:.07}.wait{opacity:.22}.f6{opacity:.45}h1{font:600 20px monospace}h1,dd{margin:0}body{overflow-wrap:anywhere}
body{margin:auto;max-width:1180px;padding:20px 16px;background:var(--paper);color:var(--ink);font:13px/1.5 system-ui}
h2{font-size:16px;margin:28px 0 4px}dl{display:flex;flex-wrap:wrap;gap:8px}dd{font-size:17px}span svg{width:12px}
dl div{border:1px solid #8884;padding:6px 12px}span{margin-right:18px;white-space:nowrap}svg,rect{height:var(--h)}
span path{transform:translate(6px)}.plot{padding:8px 28px 0 0;overflow:hidden}.row:has(path){position:relative}
.row{display:flex;margin-top:1px;line-height:var(--h);white-space:nowrap}b{flex:0 0 76px;font-weight:400}
.row path{transform:translate(0,calc(var(--h)/2 - 6px))}svg{overflow:visible;flex:1;min-width:0}line{stroke:#8883}
text{font-size:12px;text-anchor:middle}path{stroke:var(--paper)}</style><h1>%(title)s</h1><dl>%(facts)s</dl>
<h2>Timeline</h2>%(legend)s<div class=plot>%(timeline)s</div><h2>Tasks by length</h2>%(lengths)s"""
ROW = '<div class=row style="--h:{}px"><b>{}</b><svg>{}</svg></div>'
TICK = "<line x1={0:%} x2={0:%} y1=-60 y2=9999 /><text x={0:%} y=14>{1}</text>"
ICONS = {"fault": '<path class=fault d="M0-2L7 11H-7z"/>', "rerun": '<path class=rerun d="M0 0L5 6L0 12L-5 6z"/>',
         "wait": "<rect class=wait width=12 />", "other": "<rect class=f6 width=12 />"}
UNITS = (3.6e9, "h"), (6e7, "min"), (1e6, "s"), (1e3, "ms"), (1, "µs")
STEPS = [int(m * u) for u in (1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 6e7, 6e8, 3.6e9, 3.6e10, 3.6e11) for m in (1, 2, 3)]


def human(us):
    """Return a time (µs) in words."""
    size, unit = next((pair for pair in UNITS if us >= pair[0] * 0.9995), UNITS[-1])
    return f"{us / size:.3g} {unit}" if us else "0"


def rect(css, x, width, tip="", more=""):
    """Return a rectangle with a tooltip; x and width from 0 to 1, with a gap after it, never too thin to be seen."""
    return f"<rect class={css} x={x:.2%} width={max(width, 1e-3) - 5e-4:.2%} {more}><title>{escape(tip)}</title></rect>"


def columns(label, css, bars, ticks):
    """Return a chart of bars (share of the height, title) side by side, and its axis of ticks (x from 0 to 1, text)."""
    sizes = [f'y={60 - 60 * share:.1f} style="--h:{60 * share:.1f}px"' for share, _ in bars]
    parts = [rect(css, i / len(bars), 1 / len(bars), title, sizes[i]) for i, (share, title) in enumerate(bars) if share]
    return ROW.format(60, label, "".join(parts)) + ROW.format(20, "", "".join(TICK.format(*tick) for tick in ticks))


def stretches(events):
    """Yield (start, end, event) for each stretch of a worker's time: what began last is what it was doing."""
    now, nested = 0, []
    for event in [*(event for event in events if event["ph"] == "X"), {"ts": math.inf}]:
        while nested and now < event["ts"]:
            since, now = now, min(nested[-1]["end"], event["ts"])
            yield since, now, nested[-1]
            while nested and nested[-1]["end"] <= now:
                nested.pop()
        nested.append(event)
        now = event["ts"]


class Report:
    """What the page shows of the events of a trace; times in µs; lanes are keyed by (host, rank) or (host, -1)."""

    def __init__(self, events):
        named = (e for e in events if e["ph"] == "M" and e["name"] in ("process_name", "thread_name"))
        self.names = {(e["pid"], e.get("tid", -1)): e["args"]["name"] for e in named}
        self.events = sorted((e for e in events if e["ph"] in "Xi"), key=lambda e: (e["ts"], -e.get("dur", 0)))
        origin = self.events[0]["ts"] if self.events else 0
        self.lanes, self.spent, self.count, self.slots = {k: [] for k in self.names}, Counter(), Counter(), [0] * 200
        for e in self.events:  # a clock may read 0: a third of a µs is nearer to the truth, and has a logarithm
            args, time, length = e.get("args", {}), e["ts"] - origin, max(e.get("dur", 0), 0.3) * (e["ph"] == "X")
            e.update(ts=time, end=time + length, n=args.get("n", 1), cat=e["cat"] if e["cat"].isalnum() else "other")
            call, when = f"{e['name']:.60}{args.pop('args', '')!s:.80}", f"{human(length)} from " * (e["ph"] == "X")
            e["text"] = "\n".join([call, when + human(time), *(f"{key} {value!s:.90}" for key, value in args.items())])
            self.lanes.setdefault((e["pid"], e.get("tid", -1)), []).append(e)
            self.count[e["cat"]] += args.get("tasks", e["n"])
        self.n_workers, self.span = sum(a >= 0 <= b for a, b in self.lanes), max([1, *(e["end"] for e in self.events)])
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
        text = f"{n:,} tasks, {share:.0%} busy\n{human(end - start)} from {human(start)}" if run[1:] else e["text"]
        css, look = max(spent, key=spent.get), f"opacity={0.3 + 0.7 * share:.2g}"
        return rect(css, start / self.span, (end - start) / self.span, text, look)

    def timeline(self, least):
        """Yield the share of busy workers, then a line for each; stretches below `least` µs are drawn together."""
        bars = [(share, f"{share:.0%} busy at {human(i * self.span / 200)}") for i, share in enumerate(self.slots)]
        step, height = next(s for s in STEPS if s * 5 >= self.span), max(5, min(20, 1000 // (self.n_workers or 1)))
        yield columns("busy", "f6", bars, [(t / self.span, human(t)) for t in range(0, int(self.span) + 1, step)])
        for (host, rank), lane in sorted(self.lanes.items()):
            name = self.names.get((host, rank), f"{rank} on {host}")
            runs = groupby(stretches(lane), lambda p: p if p[1] - p[0] >= least else p[0] // least)
            out = [rect("bg", 0, rank >= 0, name), *(self.bar(list(run)) for _, run in runs)]
            for e in {(e["cat"], e["ts"] // least): e for e in lane if e["ph"] == "i"}.values():
                out.append(f"<svg x={e['ts'] / self.span:%}>{ICONS[e['cat']]}<title>{escape(e['text'])}</title></svg>")
            label = escape(name[:60] if rank < 0 else name[:11] * (rank % -(-13 // height) == 0))
            yield ROW.format(24 if rank < 0 else height, label, "".join(out))

    def lengths(self):
        """Yield for each function a chart of how long its tasks took; all have the same logarithmic axis."""
        top, high = {name: Counter() for name, _ in self.spent.most_common(20)}, len(str(int(self.span)))
        for e in (e for e in self.events if e["cat"] == "task" and e["name"] in top):
            top[e["name"]][max(0, int(40 * math.log10((e["end"] - e["ts"]) / (e["n"] or 1)) / high))] += e["n"]
        ticks = [(i / high, human(10 ** i)) for i in range(0, high + 1, 1 + high // 6)]
        for name, bins in top.items():
            bars = [(bins[i] / max(bins.values()), f"{bins[i]:,} tasks") for i in range(40)]
            facts = f"{escape(name[:99])}: {sum(bins.values()):,} tasks, {human(self.spent[name])} of work"
            yield f'<div class=plot>{facts}{columns("tasks", self.css[name], bars, ticks)}</div>'


def main(path):
    """Print the page of the trace in this file, and on standard error what it holds."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line.strip("[, \n") for line in file if line.endswith("\n")]  # a kill may have cut the last
    events = [json.loads(line) for line in lines if line.startswith("{")]
    report = Report(events)
    n, least, whole = report.count, report.span / 1000, "whole" if "]" in lines[-1:] else "cut short"
    facts = {"tasks": f"{n['task']:,}", "workers": report.n_workers, "hosts": sum(a >= 0 > b for a, b in report.lanes),
             "time": human(report.span * bool(report.events)), "busy": f"{sum(report.slots) / 200:.0%}",
             "faults": n["fault"], "re-runs": n["rerun"], "trace": whole}
    print(", ".join(f"{key} {value}" for key, value in facts.items()), file=sys.stderr)
    facts.update(pair for e in events if (e["ph"], e["name"]) == ("M", "scoop_lite") for pair in e["args"].items())
    icons = [(name, rect(css, 0, 1, name)) for name, css in [*report.css.items()][:6]] + [*ICONS.items()]
    while len(timeline := "".join(report.timeline(least))) > 1_400_000:
        least *= len(timeline) / 1_300_000
    sys.stdout.buffer.write((PAGE % {
        "title": escape(facts.pop("command", path)), "timeline": timeline, "lengths": "".join(report.lengths()),
        "facts": "".join(f"<div><dt>{escape(key)}<dd>{escape(str(value))}</div>" for key, value in facts.items()),
        "legend": "".join(f"<span><svg>{icon}</svg> {escape(name[:40])}</span>" for name, icon in icons)
    }).encode("utf-8", "replace"))


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)
