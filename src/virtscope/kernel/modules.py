"""Kernel modules: where they are loaded, their symbols."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel


def symbolize_in_module(kernel: Kernel, address: int) -> tuple[str, int, str | None] | None:
    """As `Kernel.symbolize`, for an address outside the kernel image."""
    return None
