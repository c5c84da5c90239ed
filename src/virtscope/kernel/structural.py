"""What can be known without type information or symbols: by what structures contain and how they hang together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtscope.kernel.layouts import Member

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel


class StructuralLayouts:
    """A `LayoutSource`."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def struct_size(self, name: str) -> int | None:
        """See `LayoutSource`."""
        return None

    def member(self, name: str, path: str) -> Member | None:
        """See `LayoutSource`."""
        return None

    def enum(self, name: str) -> dict[str, int] | None:
        """See `LayoutSource`."""
        return None

    def enumerator(self, name: str) -> int | None:
        """See `LayoutSource`."""
        return None


def find_by_content(kernel: Kernel, name: str) -> int | None:
    """Finds."""
    return None
