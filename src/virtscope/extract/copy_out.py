"""Copying a guest's files onto the host: `copy_out`.

The guest is not trusted. A file is only ever created inside a directory that this process has just made,
through that directory's descriptor and without following links, so that nothing in an image leads a write
elsewhere. Set-ID bits are dropped, owners are not taken over, and device nodes, sockets and fifos are left
out: `tar_out` keeps all of that for whom it is safe.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from virtscope.errors import FormatError, UsageError, VirtscopeError
from virtscope.extract.sparse import data_of

if TYPE_CHECKING:
    from virtscope.fs.filesystem import Stat
    from virtscope.fs.tree import Node, Tree

_DEEPEST = 512
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Progress = Callable[[int], None]
"""Told how many bytes were written since it was last told; 0 when a file begins."""


class Unfinished:
    """The file that is being written, for who must give it up from another thread."""

    def __init__(self) -> None:
        self.place: tuple[bytes, int] | None = None
        """Its name, and the descriptor of its directory."""

    def remove(self) -> None:
        """Take away what there is of it: half a file must not be taken for a whole one."""
        place, self.place = self.place, None
        if place is not None:
            with contextlib.suppress(OSError):
                os.unlink(place[0], dir_fd=place[1])


def copy_out(
    tree: Tree,
    source: bytes,
    target: str,
    *,
    problem: Callable[[str], None],
    progress: Progress = lambda _: None,
    unfinished: Unfinished | None = None,
) -> None:
    """Copy a file or a directory with all below it into a directory of the host.

    Holes stay holes; modes and times are kept; a symbolic link is copied as it is.

    Args:
        tree: the guest's files.
        source: a path in the guest.
        target: an existing directory of the host; the copy gets the source's last name in it.
        problem: told, in a sentence, of each file that could not be copied; no part of it is left.
        progress: see `Progress`.
        unfinished: knows which file is being written.

    Raises:
        GuestPathError: there is no such file in the guest.
        UsageError: `target` is no directory, or the copy's name exists there.
    """
    node = tree.resolve(source, follow=False)
    try:
        directory = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{target} is not a directory that can be written to: {error.strerror}") from None
    try:
        _Copier(tree, problem, progress, unfinished or Unfinished()).copy(node, directory, _name_of(node))
    except FileExistsError:
        name = os.fsdecode(_name_of(node))
        raise UsageError(f"{target} has a {name} already; nothing in it was changed") from None
    except OSError as error:
        raise UsageError(f"{target} cannot be written to: {error.strerror}") from None
    finally:
        os.close(directory)


def _name_of(node: Node) -> bytes:
    return node.name.strip(b"/") or b"root"


class _Level(NamedTuple):
    """A directory that is being copied: its descriptor on the host, and what is still to be copied of it."""

    node: Node
    stat: Stat
    inside: int
    children: Iterator[Node]


class _Copier:
    def __init__(
        self, tree: Tree, problem: Callable[[str], None], progress: Progress, unfinished: Unfinished
    ) -> None:
        self._tree = tree
        self._unfinished = unfinished
        self._problem = problem
        self._progress = progress
        self._entered: set[tuple[int, int]] = set()
        self._levels: list[_Level] = []

    def copy(self, node: Node, directory: int, name: bytes) -> None:
        """Copy `node` and all below it: by a list of levels, as Python's stack is less deep than a guest's
        directories may be.
        """
        try:
            self._copy_one(node, directory, name)
            while self._levels:
                level = self._levels[-1]
                child = next(level.children, None)
                if child is None:
                    self._leave()
                else:
                    self._copy_child(child, level.inside)
        finally:
            for level in self._levels:
                os.close(level.inside)

    def _copy_child(self, child: Node, inside: int) -> None:
        try:
            self._copy_one(child, inside, child.name)
        except VirtscopeError as error:
            self._problem(f"{os.fsdecode(child.path)} was not copied: {error}")
        except OSError as error:
            if error.errno in _FULL:
                raise
            self._problem(f"{os.fsdecode(child.path)} was not copied: {error.strerror}")

    def _copy_one(self, node: Node, directory: int, name: bytes) -> None:
        self._progress(0)
        stat = node.stat()
        kind = stat.mode & 0o170000
        if kind == 0o040000:
            self._enter(node, stat, directory, name)
        elif kind == 0o100000:
            self._copy_file(node, stat, directory, name)
        elif kind == 0o120000:
            self._copy_link(node, stat, directory, name)
        else:
            self._problem(f"{os.fsdecode(node.path)} was left out: it is a {stat.kind}")

    def _enter(self, node: Node, stat: Stat, directory: int, name: bytes) -> None:
        key = (id(node.filesystem), node.inode)
        if key in self._entered:
            self._problem(f"{os.fsdecode(node.path)} was left out: it is another name of a directory")
            return
        if len(self._levels) >= _DEEPEST:
            self._problem(f"{os.fsdecode(node.path)} was left out: it is more than {_DEEPEST} levels deep")
            return
        os.mkdir(name, 0o700, dir_fd=directory)
        self._entered.add(key)
        inside = os.open(name, _DIRECTORY, dir_fd=directory)
        self._levels.append(_Level(node, stat, inside, self._tree.children(node, problem=self._problem)))

    def _leave(self) -> None:
        level = self._levels.pop()
        try:
            os.fchmod(level.inside, level.stat.mode & 0o777)
            os.utime(level.inside, ns=(level.stat.accessed_ns or 0, level.stat.modified_ns or 0))
        finally:
            os.close(level.inside)

    def _copy_link(self, node: Node, stat: Stat, directory: int, name: bytes) -> None:
        target = node.filesystem.readlink(node.inode)
        if not target or b"\0" in target:
            raise FormatError(
                node.filesystem.kind, f"the link has the impossible target {os.fsdecode(target)!r}"
            )
        os.symlink(target, name, dir_fd=directory)
        times = (stat.accessed_ns or 0, stat.modified_ns or 0)
        os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)

    def _copy_file(self, node: Node, stat: Stat, directory: int, name: bytes) -> None:
        out = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
        self._unfinished.place = (name, directory)
        try:
            # Said first, so that a size no file of the host can have costs no time.
            os.ftruncate(out, stat.size)
            for offset, data in data_of(node, stat.size):
                _write_all(out, data, offset)
                self._progress(len(data))
            os.fchmod(out, stat.mode & 0o777)
            os.utime(out, ns=(stat.accessed_ns or 0, stat.modified_ns or 0))
            self._unfinished.place = None
        except BaseException:  # whatever ended the copying
            self._unfinished.remove()
            raise
        finally:
            os.close(out)


_FULL = frozenset((28, 122, 30, 5))
"""ENOSPC, EDQUOT, EROFS, EIO: going on with the next file makes no sense."""


def _write_all(out: int, data: bytes, offset: int) -> None:
    """All of `data`: on a disk that is nearly full, a write takes a part of it and is no error."""
    left = memoryview(data)
    while left:
        count = os.pwrite(out, left, offset)
        left = left[count:]
        offset += count
