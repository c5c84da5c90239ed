"""The exit codes every command shares."""

from __future__ import annotations

OK = 0
"""Everything asked for was done."""

NEGATIVE = 1
"""A negative answer (nothing matched) or findings."""

FAILED = 2
"""A usage error, or nothing could be done."""

PARTIAL = 3
"""Some guests, files or parts failed; the rest was printed."""

MEANINGS: tuple[tuple[int, str], ...] = (
    (OK, "Success."),
    (NEGATIVE, "A negative answer: nothing matched, or findings were reported."),
    (FAILED, "A usage error, or nothing could be done."),
    (PARTIAL, "Partial: some guests failed and were reported on standard error, the rest was printed."),
)
