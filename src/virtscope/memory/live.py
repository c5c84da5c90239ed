"""The RAM of a running virtual machine monitor, read from outside its process.

`LiveMemory` is given where each range of guest RAM lies in the process (finding that out is the host layer's
work) and reads it with plain system calls: no ptrace stop, no pause, nothing in the guest.

How a range is read depends on what backs it:

- private anonymous memory, the usual case: through /proc/PID/mem;
- a shared file (memfd, /dev/shm, hugetlbfs): from that file, opened through /proc;
- a private mapping of a file: what the process has written through /proc/PID/mem, the rest from the file.

Pages that nobody has touched are never touched by reading: /proc/PID/pagemap says which exist in anonymous
memory, and read() leaves the holes of a file in memory alone, where a page fault would fill them.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from virtscope.errors import AccessDenied, GuestError, GuestMemoryError, GuestVanished, MissingDependency
from virtscope.memory.mappings import Mapping, needed_to_read, writable_mappings
from virtscope.memory.pagemap import EXISTS, IS_PRIVATE, PAGE_SIZE, Pagemap, runs
from virtscope.memory.physical import PhysicalMemory, Segment
from virtscope.memory.sparse import data_ranges, joined, read_exactly

# Holes this small are not worth a range of their own: reading over them touches nothing.
_JOIN_GAP = 64 * 1024


@dataclass(frozen=True, slots=True)
class HostRange:
    """Where a range of guest RAM lies in the process that runs the guest.

    Attributes:
        start: the first guest-physical address.
        size: its length in bytes.
        host_address: the virtual address in the process.
    """

    start: int
    size: int
    host_address: int


class LiveMemory(PhysicalMemory):
    """The RAM of a guest that a process of this host runs.

    Args:
        pid: the process.
        ranges: where guest RAM lies in it.
        name: what messages call the guest.
        start_time: field 22 of /proc/PID/stat, if the caller knows it: guards against a PID that was reused.
        page_roots: asked for the page table roots, on first use; that it fails is a note, not an error.
        notes: see `PhysicalMemory`.

    Raises:
        GuestVanished: there is no such process, or it is another one now.
        AccessDenied: this user may not read it.
        GuestMemoryError: a range is not readable and writable memory of the process.
    """

    def __init__(
        self,
        pid: int,
        ranges: Sequence[HostRange],
        *,
        name: str | None = None,
        start_time: int | None = None,
        page_roots: Callable[[], tuple[int, ...]] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.pid = pid
        self._fds: list[int] = []
        self._ask_page_roots = page_roots
        name = name or f"process {pid}"
        try:
            self._mem_fd = self._open(f"/proc/{pid}/mem")
            self._pagemap = Pagemap(self._open(f"/proc/{pid}/pagemap"))
            # Only now, with the files open on this very process, does its start time tell a reused PID.
            started = process_start_time(pid)
            if start_time not in (None, started):
                raise GuestVanished(f"{name}: its process has ended")
            self._identity = f"{pid}:{started}:{_boot_id()}"
            pieces = self._pieces(ranges, writable_mappings(pid), name)
            super().__init__(name, [segment for segment, _ in pieces], is_live=True, notes=notes)
            self._backings = [backing for _, backing in sorted(pieces, key=lambda piece: piece[0])]
        except BaseException:
            self.close()
            raise

    @property
    def identity(self) -> str | None:
        """PID, start time and the host's boot id."""
        return self._identity

    def close(self) -> None:
        """Close the files of the process."""
        while self._fds:
            os.close(self._fds.pop())

    def _find_page_roots(self) -> tuple[int, ...]:
        if self._ask_page_roots is None:
            return ()
        try:
            return self._ask_page_roots()
        except (GuestError, MissingDependency) as error:
            self.notes += (f"{error}; page tables were searched for in memory instead",)
            return ()

    def _read_segment(self, index: int, offset: int, size: int) -> bytes:
        try:
            return self._backings[index].read(offset, size)
        except OSError as error:
            raise self._explain(error, index, offset, size) from None

    def _populated_segment(self, index: int, offset: int, size: int) -> Iterator[tuple[int, int]]:
        try:
            yield from joined(self._backings[index].populated(offset, size), _JOIN_GAP)
        except OSError as error:
            raise self._explain(error, index, offset, size) from None

    def _explain(self, error: OSError, index: int, offset: int, size: int) -> Exception:
        """What a failed system call means."""
        if isinstance(error, ProcessLookupError) or not self._pagemap.is_alive():
            return GuestVanished(f"{self.name}: its process ended while its memory was read")
        if isinstance(error, PermissionError):
            return AccessDenied(needed_to_read(self.pid))
        address = self.segments[index].start + offset
        return GuestMemoryError(
            f"{self.name}: cannot read {size} bytes at physical address {address:#x}: {error.strerror}"
        )

    def _open(self, path: str) -> int:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            raise GuestVanished(f"process {self.pid} is gone") from None
        except PermissionError:
            raise AccessDenied(needed_to_read(self.pid)) from None
        self._fds.append(fd)
        return fd

    def _pieces(
        self, ranges: Sequence[HostRange], mappings: Sequence[Mapping], name: str
    ) -> list[tuple[Segment, _Backing]]:
        """The ranges cut at the mappings they lie in, each with the way to read it."""
        starts = [mapping.start for mapping in mappings]
        files: dict[int, int | None] = {}
        pieces: list[tuple[Segment, _Backing]] = []
        for item in ranges:
            done = 0
            while done < item.size:
                host = item.host_address + done
                at = bisect_right(starts, host) - 1
                if at < 0 or host >= mappings[at].end:
                    raise GuestMemoryError(
                        f"{name}: physical address {item.start + done:#x} should be at {host:#x} in "
                        f"process {self.pid}, which has no memory there"
                    )
                mapping = mappings[at]
                size = min(item.size - done, mapping.end - host)
                segment = Segment(item.start + done, size)
                pieces.append((segment, self._backing(mapping, host, files)))
                done += size
        return pieces

    def _backing(self, mapping: Mapping, host: int, files: dict[int, int | None]) -> _Backing:
        if not mapping.inode:
            return _ProcessPages(self._mem_fd, self._pagemap, host)
        if mapping.start not in files:
            files[mapping.start] = self._open_mapped_file(mapping)
        fd = files[mapping.start]
        if fd is None:
            return _UnreachableFile(self._mem_fd, self._pagemap, host)
        file_offset = mapping.offset + host - mapping.start
        if mapping.is_shared:
            return _SharedFile(fd, file_offset, self._pagemap)
        return _PrivateFile(self._mem_fd, self._pagemap, host, fd, file_offset)

    def _open_mapped_file(self, mapping: Mapping) -> int | None:
        """The file behind a mapping; None if there is no way to open it, or it is no regular file."""
        import stat

        candidates = [f"/proc/{self.pid}/map_files/{mapping.start:x}-{mapping.end:x}"]
        try:  # map_files needs CAP_CHECKPOINT_RESTORE, a descriptor that is still open does not
            for number in os.listdir(f"/proc/{self.pid}/fd"):
                link = f"/proc/{self.pid}/fd/{number}"
                if os.readlink(link) == mapping.path:
                    candidates.append(link)
        except OSError:
            pass
        if mapping.path.startswith("/"):
            candidates.append(f"/proc/{self.pid}/root{mapping.path}")
        for path in candidates:
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                continue
            status = os.fstat(fd)
            if status.st_ino == mapping.inode and stat.S_ISREG(status.st_mode):
                self._fds.append(fd)
                return fd
            os.close(fd)
        return None


class _Backing:
    """One piece of guest RAM; offsets count from its start."""

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes."""
        raise NotImplementedError

    def populated(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """The (offset, size) ranges that may not be zero, in order."""
        raise NotImplementedError


class _ProcessPages(_Backing):
    """Private anonymous memory: pages that the process does not have are zero."""

    kind = EXISTS

    def __init__(self, mem_fd: int, pagemap: Pagemap, address: int) -> None:
        self._mem_fd = mem_fd
        self._pagemap = pagemap
        self._address = address

    def read(self, offset: int, size: int) -> bytes:
        address = self._address + offset
        lead = address % PAGE_SIZE
        flags = self._pagemap.flags(address - lead, -(-(lead + size) // PAGE_SIZE), self.kind)
        if 0 not in flags:
            return read_exactly(self._mem_fd, size, address)
        parts, done = [], 0
        for first, count in runs(flags):
            start = max(0, first * PAGE_SIZE - lead)
            end = min(size, (first + count) * PAGE_SIZE - lead)
            if start > done:
                parts.append(self.absent(offset + done, start - done))
            parts.append(read_exactly(self._mem_fd, end - start, address + start))
            done = end
        if done < size:
            parts.append(self.absent(offset + done, size - done))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def absent(self, offset: int, size: int) -> bytes:  # noqa: ARG002
        """What the guest sees in pages that are not of this kind."""
        return bytes(size)

    def populated(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        address, end = self._address + offset, self._address + offset + size
        for start, count in self._pagemap.ranges(address, size, self.kind):
            low, high = max(start, address), min(start + count, end)
            yield low - self._address, high - low


class _UnreachableFile(_ProcessPages):
    """A mapped file that cannot be opened: absent pages may hold data, so reading has to touch them."""

    def absent(self, offset: int, size: int) -> bytes:
        return read_exactly(self._mem_fd, size, self._address + offset)


class _SharedFile(_Backing):
    """A file shared with the guest: what it holds is what the guest sees."""

    def __init__(self, fd: int, start: int, pagemap: Pagemap) -> None:
        self._fd = fd
        self._start = start
        self._pagemap = pagemap

    def read(self, offset: int, size: int) -> bytes:
        # The file may outlive the process: without asking, a guest that is gone would look alive.
        if not self._pagemap.is_alive():
            raise ProcessLookupError
        return read_exactly(self._fd, size, self._start + offset)

    def populated(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        if not self._pagemap.is_alive():
            raise ProcessLookupError
        for start, count in data_ranges(self._fd, self._start + offset, size):
            yield start - self._start, count


class _PrivateFile(_ProcessPages):
    """A copy-on-write mapping of a file: the process' own pages, and the file's where it wrote nothing."""

    kind = IS_PRIVATE

    def __init__(self, mem_fd: int, pagemap: Pagemap, address: int, fd: int, start: int) -> None:
        super().__init__(mem_fd, pagemap, address)
        self._file = _SharedFile(fd, start, pagemap)

    def absent(self, offset: int, size: int) -> bytes:
        return self._file.read(offset, size)

    def populated(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        from heapq import merge

        yield from merge(super().populated(offset, size), self._file.populated(offset, size))


def process_start_time(pid: int) -> int:
    """When process `pid` started, in clock ticks after the host's boot.

    With the PID it names one process until the host reboots.

    Raises:
        GuestVanished: there is no such process.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name before the last ")" may hold anything; what follows are fields 3, 4, ...
            return int(file.read().rpartition(b")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError, IndexError):
        raise GuestVanished(f"process {pid} is gone") from None


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
