"""A Linux kernel found in guest memory, and the views of it."""

from __future__ import annotations

from virtscope.kernel.kernel import Kernel, find_kernel
from virtscope.kernel.layouts import Member, StructLayout
from virtscope.kernel.records import Record

__all__ = ["Kernel", "Member", "Record", "StructLayout", "find_kernel"]
