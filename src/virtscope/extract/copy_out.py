"""Copying a guest's files onto the host: `copy_out`.

The guest is not trusted. A file is only ever created inside a directory that this process has just made,
through that directory's descriptor and without following links, so that nothing in an image leads a write
elsewhere. Set-ID bits are dropped, owners are not taken over, and device nodes, sockets and fifos are left
out: `tar_out` keeps all of that for whom it is safe.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from virtscope.errors import FormatError, GuestPathError, UsageError
from virtscope.extract.sparse import data_of

if TYPE_CHECKING:
    from virtscope.fs.filesystem import Stat
    from virtscope.fs.tree import Node, Tree

_DEEPEST = 512
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Progress = Callable[[int], None]
"""Told how many bytes were written since it was last told."""


def copy_out(
    tree: Tree,
    source: bytes,
    target: str,
    *,
    problem: Callable[[str], None],
    progress: Progress = lambda _: None,
) -> None:
    """Copy a file or a directory with all below it into a directory of the host.

    Holes stay holes; modes and times are kept; a symbolic link is copied as it is.

    Args:
        tree: the guest's files.
        source: a path in the guest.
        target: an existing directory of the host; the copy gets the source's last name in it.
        problem: told, in a sentence, of each file that could not be copied.
        progress: see `Progress`.

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
        _Copier(tree, problem, progress).copy(node, directory, node.name.strip(b"/") or b"root", 0)
    except FileExistsError:
        name = os.fsdecode(node.name)
        raise UsageError(f"{target} has a {name} already; nothing in it was changed") from None
    except OSError as error:
        raise UsageError(f"{target} cannot be written to: {error.strerror}") from None
    finally:
        os.close(directory)


class _Copier:
    def __init__(self, tree: Tree, problem: Callable[[str], None], progress: Progress) -> None:
        self._tree = tree
        self._problem = problem
        self._progress = progress
        self._entered: set[tuple[int, int]] = set()

    def copy(self, node: Node, directory: int, name: bytes, depth: int) -> None:
        stat = node.stat()
        kind = stat.mode & 0o170000
        if kind == 0o040000:
            self._copy_directory(node, stat, directory, name, depth)
        elif kind == 0o100000:
            self._copy_file(node, stat, directory, name)
        elif kind == 0o120000:
            os.symlink(node.filesystem.readlink(node.inode), name, dir_fd=directory)
            _set_times(stat, name, directory)
        else:
            self._problem(f"{os.fsdecode(node.path)} was left out: it is a {stat.kind}")

    def _copy_directory(self, node: Node, stat: Stat, directory: int, name: bytes, depth: int) -> None:
        key = (id(node.filesystem), node.inode)
        if key in self._entered or depth > _DEEPEST:
            self._problem(
                f"{os.fsdecode(node.path)} was left out: the directories form a circle or are too deep"
            )
            return
        self._entered.add(key)
        os.mkdir(name, 0o700, dir_fd=directory)
        with _opened(name, _DIRECTORY, directory) as inside:
            try:
                for child in self._tree.children(node):
                    self._copy_child(child, inside, depth)
            except FormatError as error:
                self._problem(f"{os.fsdecode(node.path)}: {error}")
            os.fchmod(inside, stat.mode & 0o777)
            os.utime(inside, ns=(stat.accessed_ns or 0, stat.modified_ns or 0))

    def _copy_child(self, child: Node, inside: int, depth: int) -> None:
        try:
            self.copy(child, inside, child.name, depth + 1)
        except (FormatError, GuestPathError) as error:
            self._problem(f"{os.fsdecode(child.path)}: {error}")
        except OSError as error:
            if error.errno not in _FULL:
                self._problem(f"{os.fsdecode(child.path)}: {error.strerror}")
                return
            raise

    def _copy_file(self, node: Node, stat: Stat, directory: int, name: bytes) -> None:
        with _opened(name, _NEW_FILE, directory) as out:
            for offset, data in data_of(node, stat.size):
                os.pwrite(out, data, offset)
                self._progress(len(data))
            os.ftruncate(out, stat.size)
            os.fchmod(out, stat.mode & 0o777)
            os.utime(out, ns=(stat.accessed_ns or 0, stat.modified_ns or 0))


_FULL = frozenset((28, 122, 30, 5))
"""ENOSPC, EDQUOT, EROFS, EIO: going on with the next file makes no sense."""


@contextmanager
def _opened(name: bytes, flags: int, directory: int) -> Iterator[int]:
    descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _set_times(stat: Stat, name: bytes, directory: int) -> None:
    times = (stat.accessed_ns or 0, stat.modified_ns or 0)
    os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
