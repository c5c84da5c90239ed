"""Changing bytes of disks: `mutations` (the same ones in every run), `Overlay`, and `alarm` against hangs."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from virtscope.block.source import BlockSource

Change = tuple[int, bytes]

_EXTREMES = (
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    1 << 31,
    (1 << 32) - 1,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
)


def mutations(regions: Sequence[tuple[int, int]], count: int, seed: int = 1) -> Iterator[list[Change]]:
    """`count` sets of changes within the (offset, size) regions: bytes, extreme numbers, zeroed parts."""
    source = random.Random(seed)
    for _ in range(count):
        changes = []
        for _ in range(source.choice((1, 1, 1, 2, 3, 8))):
            offset, size = source.choice(regions)
            place = offset + source.randrange(size)
            kind = source.randrange(8)
            if kind < 4:
                data = bytes([source.randrange(256)])
            elif kind < 6:
                width = source.choice((2, 4, 8))
                order: str = source.choice(("little", "big"))
                place &= -width
                data = (source.choice(_EXTREMES) & ((1 << 8 * width) - 1)).to_bytes(width, order)  # type: ignore[arg-type]
            elif kind == 6:
                data = bytes(source.choice((16, 64, 512)))
            else:
                data = source.randbytes(source.choice((4, 16)))
            changes.append((place, data[: max(offset + size - place, 0)]))
        yield changes


class Overlay(BlockSource):
    """A source with some bytes changed.

    Args:
        parent: the source.
        changes: offsets and what is there instead.
        size: bytes; fewer than the parent has cut its end off.
    """

    def __init__(self, parent: BlockSource, changes: Sequence[Change], size: int | None = None) -> None:
        super().__init__(parent.name, parent.size if size is None else size)
        self.parent = parent
        self.changes = changes

    def _read(self, offset: int, size: int) -> bytes:
        data = bytearray(self.parent.read_at(offset, size))
        for place, changed in self.changes:
            start, stop = max(place, offset), min(place + len(changed), offset + size)
            if start < stop:
                data[start - offset : stop - offset] = changed[start - place : stop - place]
        return bytes(data)


@contextmanager
def alarm(seconds: int = 20) -> Iterator[None]:
    """Fail, rather than hang, when something does not come to an end.

    Args:
        seconds: of the processor's time, so that no test depends on what else the machine does; what waits
            and does nothing has a hundred times as long.
    """

    def ring(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"not done after {seconds} seconds")

    before = {kind: signal.signal(kind, ring) for kind in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(100 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for kind, handler in before.items():
            signal.signal(kind, handler)
