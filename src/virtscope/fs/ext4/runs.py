"""Runs: where the blocks of a file are, in the form that both extent trees and block maps are brought to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from virtscope.fs.filesystem import FileExtent


class Run(NamedTuple):
    """Neighbouring blocks of a file that are neighbours on the disk.

    Attributes:
        start: the first block, in the file.
        blocks: how many.
        block: the first block, in the filesystem.
        unwritten: allocated, but not yet written: it reads as zeros.
    """

    start: int
    blocks: int
    block: int
    unwritten: bool


class FileMap:
    """All runs of a file, found once and then looked up.

    Args:
        runs: in ascending order, without overlap.
        size: of the file, in bytes.
        block_bits: the power of two that is the block size.

    Attributes:
        runs: as given, neighbours joined.
        size: as given.
    """

    __slots__ = ("_block_bits", "_starts", "runs", "size")

    def __init__(self, runs: Iterable[Run], size: int, block_bits: int) -> None:
        self.runs = joined(runs)
        self._starts = [run[0] for run in self.runs]
        self._block_bits = block_bits
        self.size = size

    def __len__(self) -> int:
        return len(self.runs)

    def extents(self, start: int, end: int) -> Iterator[FileExtent]:
        """The extents between two offsets in the file, holes among them, cut to the file's size."""
        end = min(end, self.size)
        if start >= end:
            return
        bits = self._block_bits
        index = max(bisect_right(self._starts, start >> bits) - 1, 0)
        runs = self.runs
        position = start
        while position < end:
            if index == len(runs):
                yield FileExtent(position, end - position, None, True)
                return
            first, count, block, unwritten = runs[index]
            index += 1
            begin = first << bits
            stop = (first + count) << bits
            if stop <= position:
                continue
            if begin > position:
                hole = min(begin, end) - position
                yield FileExtent(position, hole, None, True)
                position += hole
                if position == end:
                    return
            size = min(stop, end) - position
            yield FileExtent(position, size, (block << bits) + position - begin, unwritten)
            position += size


def joined(runs: Iterable[Run]) -> list[Run]:
    """The same runs, those joined that go on where the one before ends."""
    found: list[Run] = []
    start = count = block = 0
    unwritten = False
    for run in runs:
        if count and run[0] == start + count and run[2] == block + count and run[3] is unwritten:
            count += run[1]
            continue
        if count:
            found.append(Run(start, count, block, unwritten))
        start, count, block, unwritten = run
    if count:
        found.append(Run(start, count, block, unwritten))
    return found
