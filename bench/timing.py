"""Whole processes, timed in turn: A B C A B C ..., so that a machine whose speed drifts slows all alike."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Contestant:
    """One program to time.

    Attributes:
        name: what the table calls it.
        argv: the command line.
        environment: variables added to the environment.
        before: called before each run, not timed.
        runs_at_most: for slow peers: fewer runs than the others.
        output: where its standard output goes; /dev/null if None.
    """

    name: str
    argv: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], object] = lambda: None
    runs_at_most: int = 1000
    output: Path | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured of one program: wall and CPU seconds of each run, and the largest peak memory in
    MiB.
    """

    name: str
    walls: tuple[float, ...]
    cpus: tuple[float, ...]
    peak_mib: float

    @property
    def wall(self) -> float:
        """The median wall time in seconds."""
        return statistics.median(self.walls)

    @property
    def cpu(self) -> float:
        """The median CPU time in seconds."""
        return statistics.median(self.cpus)


def once(contestant: Contestant) -> tuple[float, float, float]:
    """Run it once: wall seconds, CPU seconds, peak MiB.

    Raises:
        RuntimeError: it failed.
    """
    contestant.before()
    with open(contestant.output or os.devnull, "wb") as out:
        started = time.monotonic()
        process = subprocess.Popen(
            [str(word) for word in contestant.argv],
            stdout=out,
            stderr=subprocess.PIPE,
            env=os.environ | dict(contestant.environment),
        )
        assert process.stderr is not None
        with process.stderr:
            complaint = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        words = complaint.decode(errors="replace").strip().splitlines()
        raise RuntimeError(f"{contestant.name} exited with {process.returncode}: {' '.join(words[-2:])}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def race(contestants: Sequence[Contestant], runs: int = 7) -> list[Timing]:
    """Time all of them in turn, `runs` times after one warm-up each."""
    results: dict[str, list[tuple[float, float, float]]] = {}
    for contestant in contestants:
        once(contestant)
        results[contestant.name] = []
    for number in range(runs):
        for contestant in contestants:
            if number < contestant.runs_at_most:
                results[contestant.name].append(once(contestant))
    return [
        Timing(
            name,
            tuple(run[0] for run in found),
            tuple(run[1] for run in found),
            max(run[2] for run in found),
        )
        for name, found in results.items()
    ]


def table(timings: Sequence[Timing], against: str | None = None) -> str:
    """The measurements as a Markdown table; ratios of wall time are to the one called `against`."""
    base = next((timing.wall for timing in timings if timing.name == against), None)
    lines = ["| | wall s (min..max) | CPU s | peak MiB |" + (f" wall / {against} |" if base else "")]
    lines.append("|---|---|---|---|" + ("---|" if base else ""))
    for timing in timings:
        line = (
            f"| {timing.name} | {timing.wall:.3f} ({min(timing.walls):.3f}..{max(timing.walls):.3f}) "
            f"| {timing.cpu:.3f} | {timing.peak_mib:.0f} |"
        )
        lines.append(line + (f" {timing.wall / base:.2f} |" if base else ""))
    return "\n".join(lines)
