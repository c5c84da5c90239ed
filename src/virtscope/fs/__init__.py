"""Filesystems, told by their content.

`identify` says what a volume holds, `open_filesystem` gives a reader. A filesystem is added by its module,
with a function `identify(source)` and `open_filesystem(source, replay, verify)`, and one entry in `REGISTRY`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

from virtscope.block.source import BlockSource
from virtscope.fs.filesystem import Filesystem, Identity

_MAGIC_SHOWN = 16


@dataclass(frozen=True, slots=True)
class Format:
    """One format: the module that reads it, and the bytes it is told by, at these offsets of a volume."""

    module: str
    magics: tuple[tuple[int, bytes], ...]

    def matches(self, source: BlockSource) -> bool:
        """Whether any of the magics is where it should be."""
        return any(source.peek(offset, len(magic)) == magic for offset, magic in self.magics)

    def load(self) -> ModuleType:
        """The module, imported when a volume of its kind is met."""
        return importlib.import_module(f"virtscope.fs.{self.module}")


# The pages of the machine that made a swap area may have had any of these sizes (mkswap(8)).
_SWAP_PAGE_SIZES = (4096, 8192, 16384, 32768, 65536)

REGISTRY: tuple[Format, ...] = (
    Format("xfs", ((0, b"XFSB"),)),
    Format("ext4", ((0x438, b"\x53\xef"),)),
    Format(
        "swap",
        tuple((page - 10, magic) for page in _SWAP_PAGE_SIZES for magic in (b"SWAPSPACE2", b"SWAP-SPACE")),
    ),
)
"""Asked in this order; the first that matches decides."""


def identify(source: BlockSource) -> Identity:
    """What `source` holds; kind "unknown" with the first bytes when no reader knows it.

    Raises:
        FormatError: the magic is there, but the superblock behind it is damaged.
    """
    for format in REGISTRY:
        if format.matches(source):
            identity = format.load().identify(source)
            assert isinstance(identity, Identity)
            return identity
    return Identity("unknown", size=source.size, magic=source.peek(0, _MAGIC_SHOWN))


def open_filesystem(source: BlockSource, *, replay: bool = True, verify: bool = False) -> Filesystem | None:
    """A reader for the filesystem in `source`; None when it holds none (swap, a journal, unknown).

    Args:
        source: the volume.
        replay: replay a journal that a running or crashed guest left, in memory.
        verify: check the checksums of all metadata that is read, where the format has them.

    Raises:
        FormatError: it is damaged beyond reading.
    """
    for format in REGISTRY:
        if format.matches(source):
            module = format.load()
            if not hasattr(module, "open_filesystem"):
                return None
            filesystem = module.open_filesystem(source, replay=replay, verify=verify)
            assert filesystem is None or isinstance(filesystem, Filesystem)
            return filesystem
    return None


__all__ = ["REGISTRY", "Filesystem", "Identity", "identify", "open_filesystem"]
