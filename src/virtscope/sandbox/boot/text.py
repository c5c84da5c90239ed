"""The tree and the timeline as text."""

from __future__ import annotations

from collections.abc import Iterator

from virtscope.sandbox.boot.activity import Activity


def tree(root: Activity, smallest: float = 0.0) -> Iterator[str]:
    """Yields the lines of a table: each activity indented under what it is part of.

    Args:
        root: the whole.
        smallest: activities with a smaller share are left out.
    """
    names = [
        ("  " * depth + activity.name, activity)
        for depth, activity in root.walk()
        if activity.share >= smallest or not depth
    ]
    width = min(48, max(len(name) for name, _ in names))
    yield f"{'activity':<{width}} {'start':>9} {'end':>9} {'mean':>9} {'sd':>8} {'share':>6}"
    for name, activity in names:
        deviation = "-" if activity.deviation is None else f"{activity.deviation * 1000:.1f}"
        yield (
            f"{name[:width]:<{width}} {activity.start * 1000:9.1f} {activity.end * 1000:9.1f} "
            f"{activity.mean * 1000:9.1f} {deviation:>8} {activity.share * 100:5.1f}%"
        )


def timeline(root: Activity, width: int = 100, smallest: float = 0.005) -> Iterator[str]:
    """Yields the lines of a timeline: every activity an arrow from its start to its end, nested ones below.

    Args:
        root: the whole.
        width: of a line.
        smallest: activities with a smaller share are left out.
    """
    label = 30
    room = max(20, width - label - 10)
    scale = room / root.mean if root.mean else 0.0
    for depth, activity in root.walk():
        if activity.share < smallest and depth:
            continue
        begin = round((activity.start - root.start) * scale)
        length = max(1, round((activity.end - activity.start) * scale))
        begin = min(begin, room - 1)
        length = min(length, room - begin)
        arrow = "|" if length == 1 else "<" + "-" * (length - 2) + ">"
        name = ("  " * depth + activity.name)[: label - 1]
        yield f"{name:<{label}}{' ' * begin}{arrow:<{room - begin}}{activity.mean * 1000:8.1f}ms"
