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


def merge(passes: Sequence[Span]) -> Activity:
    """Merge the trees of several starts; spans correspond by name and, for equal names, by order.

    What was seen in fewer than half of the starts is noise, and counts as not explained.
    """
    whole = math.fsum(span.duration for span in passes) / len(passes)
    return _merge(passes, whole)


def _merge(spans: Sequence[Span], whole: float) -> Activity:
    mean, deviation = spread([span.duration for span in spans])
    keys: dict[tuple[str, int], list[Span]] = {}
    for span in spans:
        seen: dict[str, int] = {}
        for child in span.children:
            number = seen[child.name] = seen.get(child.name, -1) + 1
            keys.setdefault((child.name, number), []).append(child)
    children = [_merge(group, whole) for group in keys.values() if 2 * len(group) >= len(spans)]
    children.sort(key=lambda child: child.start)
    start = math.fsum(span.start for span in spans) / len(spans)
    end = math.fsum(span.end for span in spans) / len(spans)
    return Activity(
        spans[0].name,
        start,
        end,
        mean,
        deviation,
        mean / whole if whole else 0.0,
        len(spans),
        tuple(span.duration for span in spans),
        tuple(_with_overhead(children, start, end, len(spans), whole)),
    )


def _with_overhead(
    children: Sequence[Activity], start: float, end: float, passes: int, whole: float
) -> Iterator[Activity]:
    """The children, and between them what none of them covers."""

    def gap(begin: float, finish: float) -> Iterator[Activity]:
        size = finish - begin
        if size > SMALLEST_OVERHEAD:
            yield Activity(OVERHEAD, begin, finish, size, None, size / whole if whole else 0.0, passes, ())

    if not children:
        return
    at = start
    for child in children:
        yield from gap(at, child.start)
        yield child
        at = max(at, child.end)
    yield from gap(at, end)
