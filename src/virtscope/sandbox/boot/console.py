"""A kernel's messages as spans: phases between known milestones, initcalls, modules.

Understands the kernel's own time stamps ("[    0.123456] text"), alone or behind the time at which a line
arrived. With `initcall_debug` on the command line every initcall has lines of its own. Entry point:
`kernel_spans`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from virtscope.sandbox.boot.activity import Span

SHORTEST_INITCALL = 0.001
LONGEST_LINE = 4096
MOST_LINES = 200_000

_STAMP = re.compile(r"^(?:<\d+>)?\[\s*(\d{1,7}\.\d{6})\](?:\[[^\]]{1,20}\])? ?(.*)$")
_CALLING = re.compile(r"^calling\s+(\S+?)(?:\+0x\S+)?\s+(?:\[(\S+)\]\s+)?@ \d+")
_RETURNED = re.compile(
    r"^initcall (\S+?)(?:\+0x\S+)?\s+(?:\[(\S+)\]\s+)?returned (-?\d+)( with \w+)? after (\d+) usecs"
)

# The first line that matches begins the phase; the order is the kernel's own.
PHASES: tuple[tuple[str, str], ...] = (
    ("setup_arch and memory", r"Linux version "),
    ("memory and scheduler", r"Kernel command line:|Built \d+ zonelists"),
    ("clocks and console", r"Console: |printk: console|clocksource: (?!.*Switched)"),
    (
        "CPU setup and alternatives",
        r"Calibrating delay|Speculative|Spectre|MMIO Stale|Freeing SMP alternatives",
    ),
    ("SMP", r"smpboot: CPU0|smp: Bringing up"),
    ("initcalls", r"devtmpfs: initialized|calling  \S+ @ 1"),
    ("freeing init memory", r"Freeing unused kernel image|Freeing unused decrypted"),
    ("first process", r"Run \S+ as init process"),
)


@dataclass(frozen=True, slots=True)
class Message:
    """One kernel message: seconds of the kernel's clock, and the text."""

    when: float
    text: str


def messages(lines: Iterable[str]) -> list[Message]:
    """The messages with a time stamp, in the order of the log; at most `MOST_LINES`."""
    found: list[Message] = []
    for line in lines:
        match = _STAMP.match(line[:LONGEST_LINE].rstrip("\r\n"))
        if match:
            found.append(Message(float(match[1]), match[2]))
            if len(found) >= MOST_LINES:
                break
    return found


def kernel_spans(log: Sequence[Message], end: float, offset: float = 0.0) -> tuple[Span, ...]:
    """The kernel's phases, with the initcalls over a millisecond in them.

    Args:
        log: its messages.
        end: when it handed over, on its own clock.
        offset: what to add to its clock.
    """
    marks: list[tuple[float, str]] = []
    wanted = list(PHASES)
    for message in log:
        if message.when > end:
            break
        for number, (name, pattern) in enumerate(wanted):
            if re.match(pattern, message.text):
                marks.append((message.when, name))
                del wanted[: number + 1]
                break
    if not marks:
        return ()
    calls = initcalls(log)
    spans = []
    for (start, name), (finish, _) in zip(marks, [*marks[1:], (end, "")], strict=True):
        inside = tuple(
            Span(call.name, call.start + offset, call.end + offset)
            for call in calls
            if start <= call.start and call.end <= finish
        )
        spans.append(Span(name, start + offset, finish + offset, inside))
    return tuple(spans)


def initcalls(log: Sequence[Message]) -> list[Span]:
    """The initcalls that took `SHORTEST_INITCALL` or more, those of the same depth only."""
    found: list[Span] = []
    for message in log:
        match = _RETURNED.match(message.text)
        if match and int(match[5]) >= SHORTEST_INITCALL * 1e6:
            name = f"{match[1]} [{match[2]}]" if match[2] else match[1]
            span = Span(name, message.when - int(match[5]) / 1e6, message.when)
            # one that ran inside another is part of it already
            while found and found[-1].start >= span.start:
                found.pop()
            found.append(span)
    return found


def log_span(lines: Iterable[str], name: str = "boot") -> Span | None:
    """A captured log as one start: from its first to its last time stamp; None if it has none."""
    log = messages(lines)
    if not log:
        return None
    handover = next((m.when for m in log if re.match(r"Run \S+ as init process", m.text)), log[-1].when)
    last = max(message.when for message in log)
    first = log[0].when
    kernel = Span("kernel", first, handover, kernel_spans(log, handover))
    children = [kernel]
    if last > handover:
        children.append(Span("user space", handover, last, _user_space(log, handover)))
    return Span(name, first, last, tuple(children))


def _user_space(log: Sequence[Message], handover: float) -> tuple[Span, ...]:
    found = []
    milestones = (
        (r"systemd\[1\]: systemd \S+ running in system mode", "systemd"),
        (r"systemd-journald\[\d+\]: Received client request|systemd\[1\]: Mounting ", "units"),
        (r"EXT4-fs \(|XFS \(|BTRFS ", "mounts"),
        (r"\S+ login:", "login"),
    )
    for pattern, name in milestones:
        when = next((m.when for m in log if m.when >= handover and re.match(pattern, m.text)), None)
        if when is not None:
            found.append((when, name))
    found.sort()
    ends = [when for when, _ in found[1:]] + [max(m.when for m in log)]
    return tuple(Span(name, when, finish) for (when, name), finish in zip(found, ends, strict=True))
