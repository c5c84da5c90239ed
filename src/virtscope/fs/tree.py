"""`Tree`: the directory tree of a guest, its filesystems mounted on one another, and paths in it.

Paths are bytes, as in the guest. Symbolic links are followed inside the tree only: an absolute target begins
at the tree's root, `..` at the root stays there, so that no link of a guest leads to a file of the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from virtscope.errors import FormatError, GuestPathError, VirtscopeError

if TYPE_CHECKING:
    from virtscope.fs.filesystem import FileReader, Filesystem, Stat

MAXIMUM_LINKS = 40
"""How many symbolic links one path may lead through, as in the kernel (path_resolution(7))."""

MAXIMUM_DEPTH = 1024
"""How deep a walk goes: more levels than a path of PATH_MAX bytes can name on any real system."""


@dataclass(frozen=True, slots=True)
class Node:
    """A file of any type, where a path led.

    Attributes:
        path: its absolute path in the tree, links resolved.
        filesystem: the filesystem it is in.
        inode: its number there.
    """

    path: bytes
    filesystem: Filesystem
    inode: int

    def stat(self) -> Stat:
        """What stat(2) says of it; raises FormatError."""
        return self.filesystem.stat(self.inode)

    def open(self) -> FileReader:
        """Its bytes, as a binary file object; raises FormatError."""
        return self.filesystem.open(self.inode)

    @property
    def name(self) -> bytes:
        """The last part of its path; `/` for the root."""
        return self.path.rpartition(b"/")[2] or b"/"


class Tree:
    """Filesystems mounted on one another.

    Args:
        root: the filesystem at `/`.
        mounts: others, by mount point; in any order. A mount point that does not exist is left out and noted.

    Attributes:
        notes: what could not be mounted where, as sentences.
    """

    def __init__(self, root: Filesystem, mounts: Mapping[bytes, Filesystem] | None = None) -> None:
        self.root = Node(b"/", root, root.root_inode)
        self.notes: list[str] = []
        self._mounted: dict[tuple[int, int], Filesystem] = {}
        for point in sorted(mounts or {}, key=lambda path: path.count(b"/")):
            assert mounts is not None
            try:
                node = self.resolve(point)
                if not self._is_directory(node, quiet=False):
                    raise GuestPathError(point, "this is not a directory")
            except VirtscopeError as error:
                self.notes.append(f"nothing was mounted on {_text(point)}: {error}")
                continue
            self._mounted[id(node.filesystem), node.inode] = mounts[point]

    def resolve(self, path: bytes, *, follow: bool = True) -> Node:
        """The file `path` names; relative paths begin at the root.

        Args:
            path: slash-separated.
            follow: whether a symbolic link at the end is followed, too.

        Raises:
            GuestPathError: there is no such file, a part of the path is no directory, or links lead in
                circles.
            FormatError: the filesystem is damaged on the way.
        """
        trail = [self.root]
        waiting = [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]
        links = 0
        while waiting:
            part = waiting.pop()
            here = trail[-1]
            if part == b"..":
                if len(trail) > 1:
                    trail.pop()
                continue
            inode = self._lookup(here, part, path)
            below = here.path if here.path != b"/" else b""
            node = self._crossed(Node(below + b"/" + part, here.filesystem, inode))
            if (waiting or follow) and node.stat().mode & 0o170000 == 0o120000:
                links += 1
                if links > MAXIMUM_LINKS:
                    raise GuestPathError(path, "too many symbolic links on the way, or a circle of them")
                target = node.filesystem.readlink(node.inode)
                waiting += [piece for piece in reversed(target.split(b"/")) if piece not in (b"", b".")]
                if target.startswith(b"/"):
                    trail = [self.root]
                continue
            trail.append(node)
        return trail[-1]

    def children(self, directory: Node, *, problem: Callable[[str], None] | None = None) -> Iterator[Node]:
        """What is in `directory`, in the order of the disk; mount points are crossed.

        Args:
            directory: where to look.
            problem: told, in a sentence, of what is damaged, and what can be read comes nevertheless.

        Raises:
            FormatError: the directory is damaged and `problem` is None; names before the damage have been
                yielded.
            GuestError: a part of it could not be read, and `problem` is None.
        """
        below = directory.path if directory.path != b"/" else b""
        entries = directory.filesystem.entries(directory.inode)
        while True:
            try:
                entry = next(entries, None)
            except VirtscopeError as error:
                if problem is None:
                    raise
                problem(f"{_text(directory.path)}: {error}")
                return
            if entry is None:
                return
            # No kernel lets such a name come into being, and to whoever copies files out it would be a path.
            if b"/" in entry.name or b"\0" in entry.name or entry.name in (b"", b".", b".."):
                what = f"{_text(directory.path)} has an entry with the impossible name {_text(entry.name)!r}"
                if problem is None:
                    raise FormatError(directory.filesystem.kind, what)
                problem(f"{what}, which was left out")
                continue
            yield self._crossed(Node(below + b"/" + entry.name, directory.filesystem, entry.inode))

    def walk(
        self, top: Node, *, problem: Callable[[str], None] | None = None
    ) -> Iterator[tuple[Node, list[Node]]]:
        """`top` and every directory below it, each with what is in it by name; no directory is entered twice.

        Args:
            top: where to begin.
            problem: told, in a sentence, of each directory that is damaged, or not entered as it has another
                name above or is too deep; the walk goes on.

        Raises:
            FormatError: a directory is damaged and `problem` is None.
            GuestError: a part of one could not be read, and `problem` is None.
        """
        seen: set[tuple[int, int]] = set()
        waiting = [(top, 0)]
        while waiting:
            directory, depth = waiting.pop()
            key = (id(directory.filesystem), directory.inode)
            if key in seen or depth > MAXIMUM_DEPTH:
                if problem is not None:
                    why = "it is another name of a directory" if key in seen else "it is too deep"
                    problem(f"{_text(directory.path)} was left out: {why}")
                continue
            seen.add(key)
            inside = sorted(self.children(directory, problem=problem), key=lambda node: node.path)
            yield directory, inside
            waiting += [
                (node, depth + 1)
                for node in reversed(inside)
                if self._is_directory(node, quiet=problem is not None)
            ]

    def _is_directory(self, node: Node, *, quiet: bool) -> bool:
        """Whether it is a directory; one that cannot be looked at is none, and whoever gets it from the walk
        finds that out.
        """
        try:
            return node.filesystem.stat(node.inode).mode & 0o170000 == 0o040000
        except VirtscopeError:
            if quiet:
                return False
            raise

    def _lookup(self, directory: Node, name: bytes, path: bytes) -> int:
        if directory.stat().mode & 0o170000 != 0o040000:
            raise GuestPathError(path, f"{_text(directory.path)} is not a directory")
        inode = directory.filesystem.lookup(directory.inode, name)
        if inode is None:
            raise GuestPathError(path, "there is no such file or directory")
        return inode

    def _crossed(self, node: Node) -> Node:
        """The root of what is mounted on `node`, else itself."""
        for _ in range(len(self._mounted)):
            mounted = self._mounted.get((id(node.filesystem), node.inode))
            if mounted is None:
                break
            node = Node(node.path, mounted, mounted.root_inode)
        return node


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
