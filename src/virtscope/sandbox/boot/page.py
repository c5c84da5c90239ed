"""A page that needs nothing else: the drawing with zoom and hover, and the table below it."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from virtscope.sandbox.boot.activity import Activity
from virtscope.sandbox.boot.export import as_dict
from virtscope.sandbox.boot.svg import colour

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>%(title)s</title>
<style>
body { font: 14px sans-serif; margin: 1.5em; color: #222; }
h1 { font-size: 1.3em; } .about { color: #555; } #hint { color: #777; margin: .4em 0; }
#chart { position: relative; width: 100%%; overflow: hidden; border: 1px solid #ddd; user-select: none; }
.box { position: absolute; height: 23px; overflow: hidden; white-space: nowrap; font-size: 11px; line-height:
23px;
  padding-left: 3px; box-sizing: border-box; border-right: 1px solid #fff; cursor: pointer; }
.box:hover { outline: 2px solid #000; z-index: 2; }
#tip { position: fixed; background: #222; color: #fff; padding: 6px 9px; font-size: 12px; display: none;
  border-radius: 3px; pointer-events: none; z-index: 9; white-space: pre; }
table { border-collapse: collapse; margin-top: 1.5em; font-size: 12px; }
td, th { padding: 2px 10px; text-align: right; border-bottom: 1px solid #eee; } td:first-child, th:first-child
{ text-align: left; } </style></head><body> <h1>%(title)s</h1><p class="about">%(about)s</p> <p
id="hint">Click a box to zoom to it, the topmost to zoom out; the wheel zooms where the pointer is.</p> <div
id="chart"></div><div id="tip"></div><table id="table"></table> <script> const root = %(data)s, colours =
%(colours)s; const chart = document.getElementById("chart"), tip = document.getElementById("tip"); const flat
= []; (function walk(a, depth) { flat.push([a, depth]); a.children.forEach(c => walk(c, depth + 1)); })(root,
0); const rows = Math.max(...flat.map(x => x[1])) + 1; let from = root.start, to = root.end; const ms = s =>
(s * 1000).toFixed(1) + " ms"; function describe(a) {
  return a.name + "\\n" + ms(a.start) + " to " + ms(a.end) + "\\nmean " + ms(a.mean) +
    (a.deviation === null ? "" : " +- " + ms(a.deviation)) + ", " + (a.share * 100).toFixed(1) + " %%";
}
function draw() {
  chart.textContent = ""; chart.style.height = rows * 26 + "px";
  const width = chart.clientWidth, scale = width / (to - from);
  for (const [a, depth] of flat) {
    const left = (Math.max(a.start, from) - from) * scale, right = (Math.min(a.end, to) - from) * scale;
    if (a.end < from || a.start > to || right - left < 0.4) continue;
    const box = document.createElement("div");
    box.className = "box"; box.style.left = left + "px"; box.style.width = Math.max(1, right - left) + "px";
    box.style.top = depth * 26 + "px"; box.style.background = colours[a.name];
    if (right - left > 24) box.textContent = a.name;
    box.onclick = () => { if (depth === 0) { from = root.start; to = root.end; } else { from = a.start; to =
    a.end; } draw(); }; box.onmousemove = e => { tip.style.display = "block"; tip.style.left =
    Math.min(e.clientX + 14, innerWidth - 260) + "px";
      tip.style.top = e.clientY + 14 + "px"; tip.textContent = describe(a); };
    box.onmouseout = () => tip.style.display = "none";
    chart.appendChild(box);
  }
}
chart.onwheel = e => {
  e.preventDefault();
  const at = from + (to - from) * (e.clientX - chart.getBoundingClientRect().left) / chart.clientWidth;
  const factor = e.deltaY > 0 ? 1.25 : 0.8;
  from = Math.max(root.start, at - (at - from) * factor); to = Math.min(root.end, at + (to - at) * factor);
  draw();
};
addEventListener("resize", draw); draw();
const table = document.getElementById("table");
const add = (tag, cells) => { const r = table.insertRow(); cells.forEach(c => { const d =
document.createElement(tag);
  d.textContent = c; r.appendChild(d); }); return r; };
add("th", ["activity", "start", "end", "mean", "sd", "share"]);
for (const [a, depth] of flat) {
  const r = add("td", [a.name, ms(a.start), ms(a.end), ms(a.mean), a.deviation === null ? "-" :
  ms(a.deviation),
    (a.share * 100).toFixed(1) + " %%"]);
  r.cells[0].style.paddingLeft = 10 + depth * 18 + "px";
}
</script></body></html>
"""


def render(root: Activity, about: dict[str, Any]) -> str:
    """Returns the page; names that came from a guest are data in it, never markup or script."""
    colours = {activity.name: colour(activity.name) for _, activity in root.walk()}
    return _PAGE % {
        "title": escape(str(about.get("title", "boot analysis"))),
        "about": escape(", ".join(f"{key} {value}" for key, value in about.items() if key != "title")),
        "data": _script(as_dict(root)),
        "colours": _script(colours),
    }


def _script(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
