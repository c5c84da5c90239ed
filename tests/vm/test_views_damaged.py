"""The views of real guests whose memory is damaged as it is read: they end, with no errors but ours."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import pytest

import virtscope
from lab import Guest
from virtscope.cli import dmesg, ifconfig, ps
from virtscope.cli.ifconfig_text import address_lines, interface_lines
from virtscope.errors import VirtscopeError
from virtscope.kernel import find_kernel
from virtscope.kernel.log import log
from virtscope.kernel.network import interfaces
from virtscope.kernel.processes import processes
from virtscope.kernel.uname import uname
from virtscope.memory.physical import PhysicalMemory


class Damaged(PhysicalMemory):
    """A guest's memory in which words change at random from one read to the next."""

    def __init__(self, memory: PhysicalMemory, chance: random.Random, *, is_live: bool) -> None:
        super().__init__("damaged", memory.segments, is_live=is_live)
        self._memory = memory
        self._chance = chance
        self.rate = 0.0

    def close(self) -> None:
        pass

    def _read_segment(self, index: int, offset: int, size: int) -> bytes:
        data = self._memory.read(self.segments[index].start + offset, size)
        if self._chance.random() >= self.rate or size > 1 << 20:
            return data
        damaged = bytearray(data)
        for _ in range(self._chance.randrange(1, 4)):
            at = self._chance.randrange(0, size) & ~7
            damaged[at : at + 8] = self._chance.choice(
                (bytes(8), b"\xff" * 8, self._chance.randbytes(8), data[at - 8 : at] or bytes(8))
            )[: size - at]
        return bytes(damaged)

    def _find_page_roots(self) -> tuple[int, ...]:
        return self._memory.page_roots()


def show_all(rows: Iterable[Any], command: Any) -> None:
    for row in rows:
        for column in command.columns:
            column.show(column.value(row))


@pytest.mark.parametrize("is_live", [False, True])
def test_damaged_memory(guest: Guest, is_live: bool) -> None:
    views: tuple[Callable[[Any], Iterator[Any]], ...] = (
        lambda kernel: processes(kernel),
        lambda kernel: processes(kernel, threads=True),
        log,
        interfaces,
        lambda kernel: iter((uname(kernel),)),
    )
    survived = 0
    with virtscope.open(qemu=str(guest.pid)) as outside:
        for seed in range(24):
            memory = Damaged(outside.memory, random.Random(seed), is_live=is_live)
            kernel = find_kernel(memory)
            memory.rate = (0.3, 0.03, 0.003)[seed % 3]
            for number, view in enumerate(views):
                rows: list[Any] = []
                with suppress(VirtscopeError):
                    rows.extend(view(kernel))
                    survived += 1
                if number < 2:
                    show_all(rows, ps.COMMAND)
                elif number == 2:
                    show_all(rows, dmesg.COMMAND)
                elif number == 3:
                    show_all(rows, ifconfig.COMMAND)
                    assert list(interface_lines(rows)) or not rows
                    assert list(address_lines(rows, statistics=True)) or not rows
    assert survived > 10
