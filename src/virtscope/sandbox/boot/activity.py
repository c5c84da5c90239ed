"""One start as a tree of spans; several starts as a tree of activities with mean, deviation and share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

OVERHEAD = "not explained"
# Less than this that no child explains is no news.
SMALLEST_OVERHEAD = 0.002


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time in one start; seconds since the start began."""

    name: str
    start: float
    end: float
    children: tuple[Span, ...] = ()

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Activity:
    """The same span over several starts.

    Args:
        name: what it is.
        start: when it began, mean seconds since the start.
        end: when it ended, likewise.
        mean: seconds it took.
        deviation: standard deviation of that (of the sample); None with one start.
        share: of the whole, 0 to 1.
        passes: in how many starts it was seen.
        samples: the seconds of each start.
        children: what it consists of, in order; what they do not cover is in a child called "not explained".
    """

    name: str
    start: float
    end: float
    mean: float
    deviation: float | None
    share: float
    passes: int
    samples: tuple[float, ...]
    children: tuple[Activity, ...] = ()

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Activity]]:
        """Yields (depth, activity), itself first."""
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)


def spread(samples: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (None for fewer than two)."""
    mean = math.fsum(samples) / len(samples)
    if len(samples) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((sample - mean) ** 2 for sample in samples) / (len(samples) - 1))


def with_overhead(span: Span) -> Span:
    """The span with the gaps between its children made children of their own."""
    if not span.children:
        return span
    pieces: list[Span] = []
    at = span.start
    for child in sorted(span.children, key=lambda child: child.start):
        if child.start - at > SMALLEST_OVERHEAD:
            pieces.append(Span(OVERHEAD, at, child.start))
        pieces.append(with_overhead(child))
        at = max(at, child.end)
    if span.end - at > SMALLEST_OVERHEAD:
        pieces.append(Span(OVERHEAD, at, span.end))
    return Span(span.name, span.start, span.end, tuple(pieces))


def merge(passes: Sequence[Span]) -> Activity:
    """Merge the trees of several starts; spans correspond by name and, for equal names, by order."""
    whole = math.fsum(span.duration for span in passes) / len(passes)
    return _merge([with_overhead(span) for span in passes], whole)


def _merge(spans: Sequence[Span], whole: float) -> Activity:
    mean, deviation = spread([span.duration for span in spans])
    keys: dict[tuple[str, int], list[Span]] = {}
    for span in spans:
        seen: dict[str, int] = {}
        before = ""
        for child in span.children:
            # gaps correspond by what they come after, all others by name and number
            key = before if child.name == OVERHEAD else child.name
            number = seen[key] = seen.get(key, -1) + 1
            keys.setdefault((child.name + before if child.name == OVERHEAD else key, number), []).append(
                child
            )
            before = child.name
    children = [_merge(group, whole) for group in keys.values()]
    children.sort(key=lambda child: child.start)
    return Activity(
        spans[0].name,
        math.fsum(span.start for span in spans) / len(spans),
        math.fsum(span.end for span in spans) / len(spans),
        mean,
        deviation,
        mean / whole if whole else 0.0,
        len(spans),
        tuple(span.duration for span in spans),
        tuple(children),
    )
