"""Compressed clusters of qcow and qcow2 images: `Inflater`."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from virtscope.errors import FormatError, MissingDependency

if TYPE_CHECKING:
    from virtscope.block.source import BlockSource

DEFLATE = "zlib"
ZSTD = "zstd"

_REMEMBERED_BYTES = 1 << 22
_LARGEST_ZSTD_WINDOW = 1 << 23


class Inflater:
    """Decompresses clusters, and remembers the last few: small reads come in runs.

    Args:
        file: where the compressed data is.
        format: the image's format, for messages.
        method: DEFLATE (without zlib's header) or ZSTD.
        cluster_size: of every decompressed cluster, in bytes.
    """

    def __init__(self, file: BlockSource, format: str, method: str, cluster_size: int) -> None:
        self._file = file
        self._format = format
        self._method = method
        self._cluster_size = cluster_size
        self._keep = max(_REMEMBERED_BYTES // cluster_size, 1)
        self._remembered: dict[int, bytes] = {}

    def cluster(self, offset: int, size: int) -> bytes:
        """The whole cluster whose compressed data is within `size` bytes at `offset`.

        Raises:
            FormatError: these bytes are not a compressed cluster.
            MissingDependency: the library for this method is not installed.
        """
        found = self._remembered.get(offset)
        if found is None:
            packed = self._file.read_through(offset, min(size, max(self._file.size - offset, 0)))
            found = self._deflated(packed) if self._method == DEFLATE else self._zstd(packed)
            if len(found) != self._cluster_size:
                raise self._damaged(offset)
            if len(self._remembered) >= self._keep:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[offset] = found
        return found

    def _deflated(self, packed: bytes) -> bytes:
        try:
            return zlib.decompressobj(-15).decompress(packed, self._cluster_size)
        except zlib.error:
            return b""

    def _zstd(self, packed: bytes) -> bytes:
        try:
            import zstandard
        except ImportError:
            raise MissingDependency(
                f"{self._file.name} is compressed with zstd: pip install 'virtscope[disk]'"
            ) from None
        try:
            decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_ZSTD_WINDOW)
            # Reading from a stream, unlike decompressing at once, allocates no more than is asked for.
            with decompressor.stream_reader(packed) as stream:
                return stream.read(self._cluster_size)
        except zstandard.ZstdError:
            return b""

    def _damaged(self, offset: int) -> FormatError:
        return FormatError(
            self._format, f"a compressed cluster of {self._file.name} is damaged", offset=offset
        )
