"""The tree as a drawing: one row for each depth, boxes as long as what they stand for."""

from __future__ import annotations

from xml.sax.saxutils import escape

from virtscope.sandbox.boot.activity import OVERHEAD, Activity

ROW = 26
MARGIN = 10
AXIS = 24
PALETTE = ("#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#76b7b2", "#edc948", "#9c755f", "#e15759")
GREY = "#c8c8c8"


def colour(name: str) -> str:
    """A colour that is the same for the same name everywhere."""
    if name == OVERHEAD:
        return GREY
    return PALETTE[sum(name.encode()) % len(PALETTE)]


def draw(root: Activity, width: int = 1200) -> str:
    """Returns an SVG document."""
    rows = max(depth for depth, _ in root.walk()) + 1
    height = AXIS + rows * ROW + 2 * MARGIN
    inner = width - 2 * MARGIN
    scale = inner / root.mean if root.mean else 0.0
    pieces = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" ',
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    step = _step(root.mean)
    at = 0.0
    while at <= root.mean:
        x = MARGIN + at * scale
        pieces.append(
            f'<line x1="{x:.1f}" y1="{AXIS}" x2="{x:.1f}" y2="{height - MARGIN}" stroke="#e0e0e0"/>'
        )
        pieces.append(f'<text x="{x:.1f}" y="{AXIS - 8}" fill="#555">{at * 1000:.0f} ms</text>')
        at += step
    for depth, activity in root.walk():
        x = MARGIN + (activity.start - root.start) * scale
        box = max(0.5, (activity.end - activity.start) * scale)
        y = AXIS + depth * ROW
        title = f"{activity.name}: {activity.mean * 1000:.1f} ms, {activity.share * 100:.1f}%"
        pieces.append(
            f"<g><title>{escape(title)}</title>"
            f'<rect x="{x:.1f}" y="{y}" width="{box:.1f}" height="{ROW - 3}" '
            f'fill="{colour(activity.name)}" stroke="white" stroke-width="0.5"/>'
        )
        letters = int((box - 6) / 6.2)
        if letters >= 3:
            pieces.append(f'<text x="{x + 3:.1f}" y="{y + 15}">{escape(activity.name[:letters])}</text>')
        pieces.append("</g>")
    pieces.append("</svg>")
    return "\n".join(pieces)


def _step(whole: float) -> float:
    """Seconds between the lines of the axis: about ten of them, at a round number."""
    step = 0.001
    while whole / step > 12:
        step *= 2.5 if f"{step:e}".startswith("2") else 2
    return step
