"""A Linux kernel found in guest memory, and the views of it."""

from __future__ import annotations

from virtscope.kernel.cache import KernelCache
from virtscope.kernel.finding import find_kernel
from virtscope.kernel.kernel import Kernel
from virtscope.kernel.layouts import Member, StructLayout
from virtscope.kernel.records import Record

__all__ = ["Kernel", "KernelCache", "Member", "Record", "StructLayout", "find_kernel"]
