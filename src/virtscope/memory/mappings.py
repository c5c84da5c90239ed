"""The memory mappings of a process: /proc/PID/maps, see proc_pid_maps(5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from virtscope.errors import AccessDenied, GuestVanished


@dataclass(frozen=True, slots=True)
class Mapping:
    """One virtual memory area of a process.

    Attributes:
        start: the first virtual address.
        end: the address behind the last.
        permissions: as the kernel prints them: "rw-p", "rw-s".
        offset: where in the mapped file it begins, in bytes; 0 for anonymous memory.
        inode: of the mapped file; 0 for anonymous memory.
        path: of the mapped file as the kernel prints it, or a name like "[heap]"; "" for anonymous memory.
    """

    start: int
    end: int
    permissions: str
    offset: int
    inode: int
    path: str

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self.end - self.start

    @property
    def is_shared(self) -> bool:
        """Whether writes reach the mapped file (MAP_SHARED)."""
        return self.permissions[3:4] == "s"

    def continues(self, before: Mapping) -> bool:
        """Whether this mapping goes on where `before` ends, in memory and in the file."""
        return (
            self.start == before.end
            and self.is_shared == before.is_shared
            and self.inode == before.inode
            and self.path == before.path
            and (not self.inode or self.offset == before.offset + before.size)
        )


def parse_mapping(line: str) -> Mapping:
    """One line of /proc/PID/maps.

    Raises:
        ValueError: it is not such a line.
    """
    fields = line.rstrip("\n").split(None, 5)
    start, _, end = fields[0].partition("-")
    path = fields[5] if len(fields) > 5 else ""
    return Mapping(int(start, 16), int(end, 16), fields[1], int(fields[2], 16), int(fields[4]), path)


def writable_mappings(pid: int) -> list[Mapping]:
    """The readable and writable mappings of process `pid`, in ascending order.

    Raises:
        GuestVanished: there is no such process.
        AccessDenied: the kernel does not show them to this user.
    """
    mappings: list[Mapping] = []
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                if " rw" in line[:48]:
                    mappings.append(parse_mapping(line))
    except (FileNotFoundError, ProcessLookupError):
        raise GuestVanished(f"process {pid} is gone") from None
    except PermissionError:
        raise AccessDenied(needed_to_read(pid)) from None
    return mappings


def joined_mappings(mappings: Sequence[Mapping]) -> list[Mapping]:
    """The same with neighbours made one: the kernel cuts mappings where advice was given for a part."""
    result: list[Mapping] = []
    for mapping in mappings:
        last = result[-1] if result else None
        if last is not None and mapping.continues(last):
            result[-1] = replace(last, end=mapping.end)
        else:
            result.append(mapping)
    return result


def needed_to_read(pid: int) -> str:
    """The sentence that says what reading the memory of process `pid` takes."""
    return (
        f"process {pid}: not allowed to read its memory; run as root, with CAP_SYS_PTRACE, or as the user "
        f"that runs it where kernel.yama.ptrace_scope is 0"
    )
