"""Two results side by side: what got slower, and whether that is more than chance.

Welch's t-test, which does not assume that both spread alike (B. L. Welch, Biometrika 34, 1947).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from virtscope.sandbox.boot.activity import Activity, spread

SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Change:
    """One activity in both results.

    Args:
        path: names from the whole down, with " / " between them.
        before: mean seconds, None where it was not there.
        after: likewise.
        probability: that chance alone makes such a difference; None with too few starts to tell.
    """

    path: str
    before: float | None
    after: float | None
    probability: float | None

    @property
    def difference(self) -> float:
        """Seconds it got slower by."""
        return (self.after or 0.0) - (self.before or 0.0)

    @property
    def significant(self) -> bool | None:
        """Whether the difference is more than chance; None if that cannot be told."""
        return None if self.probability is None else self.probability < SIGNIFICANT


def changes(before: Activity, after: Activity) -> Iterator[Change]:
    """Yields what differs, the largest difference first."""
    old, new = _paths(before), _paths(after)
    rows = []
    for path in {**old, **new}:
        one, two = old.get(path), new.get(path)
        probability = welch(one.samples, two.samples) if one and two else None
        rows.append(Change(path, one.mean if one else None, two.mean if two else None, probability))
    yield from sorted(rows, key=lambda row: -abs(row.difference))


def _paths(root: Activity) -> dict[str, Activity]:
    found: dict[str, Activity] = {}

    def add(activity: Activity, prefix: str) -> None:
        path = prefix + activity.name
        number = 2
        while path in found:
            path = f"{prefix}{activity.name} ({number})"
            number += 1
        found[path] = activity
        for child in activity.children:
            add(child, path + " / ")

    add(root, "")
    return found


def welch(one: Sequence[float], two: Sequence[float]) -> float | None:
    """The two-sided probability of a difference of means this large by chance; None with fewer than two
    samples."""
    if len(one) < 2 or len(two) < 2:
        return None
    (mean1, deviation1), (mean2, deviation2) = spread(one), spread(two)
    assert deviation1 is not None
    assert deviation2 is not None
    error1, error2 = deviation1**2 / len(one), deviation2**2 / len(two)
    if error1 + error2 == 0:
        return 1.0 if mean1 == mean2 else 0.0
    t = abs(mean1 - mean2) / math.sqrt(error1 + error2)
    freedom = (error1 + error2) ** 2 / (error1**2 / (len(one) - 1) + error2**2 / (len(two) - 1))
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularized incomplete beta function by its continued fraction (DLMF 8.17.22)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - incomplete_beta(b, a, 1 - x)
    front = (
        math.exp(a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b))
        / a
    )
    tiny = 1e-300
    fraction, c, d = 1.0, 1.0, 0.0
    for n in range(400):
        m = n // 2
        if n == 0:
            term = 1.0
        elif n % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 + term * d
        d = 1 / (d if abs(d) > tiny else tiny)
        c = 1 + term / (c if abs(c) > tiny else tiny)
        fraction *= c * d
        if abs(1 - c * d) < 1e-12:
            break
    return front * (fraction - 1)
