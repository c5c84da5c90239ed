"""What is learned of kernels, kept between runs.

A folder, ${XDG_CACHE_HOME:-~/.cache}/virtscope/kernels, with two kinds of JSON files:

- `kernel-HASH.json`: symbols and layouts that were asked for, of the kernel whose type information (BTF) and
  symbol table (kallsyms) have these hashes. HASH is made of the bytes read from a guest, never of a name that
  a guest claims; and what is added to a file was learned from bytes hashed by the process that adds it. So a
  guest can only ever spoil what is kept for guests that have the same bytes anyway.
- `guest-IDENTITY`: where a running guest's kernel was last seen. Only a hint: it is compared with the
  guest.

Whatever is loaded is checked in type and range. Files are replaced atomically and merged before, so
concurrent runs lose at worst what one of them learned. A folder that cannot be written, or belongs to
somebody else, is no error: nothing is kept, and `note` says why.
"""

from __future__ import annotations

import json
import os
import time
from _thread import get_native_id
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from virtscope.kernel.layouts import LayoutSource, Member

FORMAT = 1
_LIMIT_BYTES = 256 << 20
_LIMIT_FILE = 8 << 20
_KINDS = frozenset("uscbpSf?")
_MAX_STRUCT = 4 << 20


class Learned:
    """Symbols and layouts of one kernel: what is known, and what to ask for the rest. A `LayoutSource`.

    Attributes:
        symbols: address of each symbol that was looked up, relative to `_text`; absolute ones (per-CPU) as
            (value, True); None for names that the kernel does not have.
        near: what `Kallsyms.nearest` said of addresses of the image: by offset, (offset of the symbol, name).
        changed: whether there is anything to save.
    """

    def __init__(self) -> None:
        self.symbols: dict[str, tuple[int, bool] | None] = {}
        self.near: dict[int, tuple[int, str]] = {}
        self.sizes: dict[str, int | None] = {}
        self.members: dict[str, dict[str, Member | None]] = {}
        self.enums: dict[str, dict[str, int] | None] = {}
        self.enumerators: dict[str, int | None] = {}
        self.changed = False

    def merge(self, other: Learned) -> None:
        """Adds what `other` knows and this does not."""
        self.symbols = {**other.symbols, **self.symbols}
        self.near = {**other.near, **self.near}
        self.sizes = {**other.sizes, **self.sizes}
        self.enums = {**other.enums, **self.enums}
        self.enumerators = {**other.enumerators, **self.enumerators}
        for name, members in other.members.items():
            self.members[name] = {**members, **self.members.get(name, {})}

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "symbols": self.symbols,
            "near": self.near,
            "sizes": self.sizes,
            "members": self.members,
            "enums": self.enums,
            "enumerators": self.enumerators,
        }

    @classmethod
    def from_json(cls, data: Any) -> Learned:
        """From plain data, every value checked.

        Raises:
            ValueError: anything is not what `to_json` writes.
        """
        learned = cls()
        for name, symbol in _items(data, "symbols"):
            learned.symbols[name] = None if symbol is None else (_address(symbol[0]), symbol[1] is True)
        for offset, near in _items(data, "near"):
            learned.near[int(offset)] = (_address(near[0]), _text(near[1]))
        for name, size in _items(data, "sizes"):
            learned.sizes[name] = None if size is None else _number(size, 0, _MAX_STRUCT)
        for name, members in _items(data, "members"):
            if type(members) is not dict:
                raise ValueError("members")
            size = learned.sizes.get(name) or 0
            learned.members[name] = {path: _member(member, size) for path, member in members.items()}
        for name, enum in _items(data, "enums"):
            if enum is not None and type(enum) is not dict:
                raise ValueError("enums")
            learned.enums[name] = enum and {key: _value(value) for key, value in enum.items()}
        for name, value in _items(data, "enumerators"):
            learned.enumerators[name] = None if value is None else _value(value)
        return learned


class LearnedLayouts:
    """A `LayoutSource` that remembers what another one, made only when it is needed, has said.

    Args:
        learned: what is known.
        source: makes the other one; called only when something is not known.
    """

    def __init__(self, learned: Learned, source: Callable[[], LayoutSource]) -> None:
        self._learned = learned
        self._source = source

    def struct_size(self, name: str) -> int | None:
        """See `LayoutSource`."""
        sizes = self._learned.sizes
        if name not in sizes:
            sizes[name] = self._source().struct_size(name)
            self._learned.changed = True
        return sizes[name]

    def member(self, name: str, path: str) -> Member | None:
        """See `LayoutSource`."""
        members = self._learned.members.setdefault(name, {})
        if path not in members:
            members[path] = self._source().member(name, path)
            self._learned.changed = True
        return members[path]

    def enum(self, name: str) -> dict[str, int] | None:
        """See `LayoutSource`."""
        enums = self._learned.enums
        if name not in enums:
            enums[name] = self._source().enum(name)
            self._learned.changed = True
        return enums[name]

    def enumerator(self, name: str) -> int | None:
        """See `LayoutSource`."""
        enumerators = self._learned.enumerators
        if name not in enumerators:
            enumerators[name] = self._source().enumerator(name)
            self._learned.changed = True
        return enumerators[name]


class KernelCache:
    """The folder.

    Args:
        folder: where it is; the user's cache folder when None.
        enabled: False keeps and finds nothing.
        limit_bytes: when the files take more than this, those used longest ago are removed.

    Attributes:
        note: why nothing can be kept, as a sentence; None while all is well.
    """

    def __init__(
        self, folder: str | None = None, *, enabled: bool = True, limit_bytes: int = _LIMIT_BYTES
    ) -> None:
        self._folder: str | None = None
        self._limit_bytes = limit_bytes
        self.note: str | None = None
        if enabled:
            self._folder = folder or _default_folder()
            if self._folder is None:
                self.note = "nothing is kept for the next run: there is no home directory"

    def kernels(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The (name, content) of files about kernels, those used last first, at most 64."""
        found = []
        for name, status in self._files():
            if name.startswith("kernel-"):
                found.append((status.st_mtime, name))
        for _, name in sorted(found, reverse=True)[:64]:
            content = self.load(name)
            if content is not None:
                yield name, content

    def load(self, name: str) -> dict[str, Any] | None:
        """The content of a file; None when it is missing, unreadable, of another format or no JSON object."""
        if self._folder is None:
            return None
        try:
            fd = os.open(f"{self._folder}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            status = os.fstat(fd)
            if status.st_size > _LIMIT_FILE or status.st_uid != os.geteuid():
                return None
            content = json.loads(os.read(fd, _LIMIT_FILE))
        except (OSError, ValueError, RecursionError):
            return None
        finally:
            os.close(fd)
        return content if type(content) is dict and content.get("format") == FORMAT else None

    def touch(self, name: str) -> None:
        """Notes that a file was of use: those that were go last when room is made."""
        if self._folder is not None:
            path = f"{self._folder}/{name}"
            with suppress(OSError):
                if time.time() - os.stat(path, follow_symlinks=False).st_mtime > 3600:
                    os.utime(path, follow_symlinks=False)

    def save(self, name: str, content: dict[str, Any]) -> None:
        """Replaces a file; failing is not an error (see `note`)."""
        if self._folder is None:
            return
        temporary = f"{self._folder}/.{name}.{os.getpid()}.{get_native_id()}"
        try:
            self._make_folder(self._folder)
            data = json.dumps({"format": FORMAT, **content}, separators=(",", ":")).encode()
            if len(data) > _LIMIT_FILE:
                return
            fd = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            try:
                try:
                    os.write(fd, data)
                finally:
                    os.close(fd)
                os.rename(temporary, f"{self._folder}/{name}")
            except OSError:
                os.unlink(temporary)
                raise
            self._make_room()
        except OSError as error:
            self._folder, where = None, self._folder
            self.note = f"nothing is kept for the next run: {where}: {error.strerror or error}"

    def remove(self, name: str) -> None:
        """Removes a file that turned out wrong."""
        if self._folder is not None:
            with suppress(OSError):
                os.unlink(f"{self._folder}/{name}")

    def _make_folder(self, folder: str) -> None:
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            # By descriptor: whoever owns the folder above could put a link in its place in between.
            fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                status = os.fstat(fd)
                if status.st_uid != os.geteuid():
                    raise PermissionError(0, "belongs to another user") from None
                if status.st_mode & 0o077:
                    os.fchmod(fd, 0o700)
            finally:
                os.close(fd)

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        if self._folder is None:
            return
        try:
            with os.scandir(self._folder) as listing:
                for entry in listing:
                    try:
                        yield entry.name, entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
        except OSError:
            return

    def _make_room(self) -> None:
        """Removes files used longest ago, and what interrupted runs left."""
        files = sorted((status.st_mtime, name, status.st_size) for name, status in self._files())
        total = sum(max(size, 4096) for _, _, size in files)
        now = time.time()
        for modified, name, size in files:
            stale = name.startswith(".") and now - modified > 3600
            if stale or total > self._limit_bytes:
                self.remove(name)
                total -= max(size, 4096)


def guest_file(identity: str) -> str:
    """The name of the file about the guest with that `PhysicalMemory.identity`."""
    return "guest-" + "".join(
        letter if letter.isalnum() or letter in "-." else "_" for letter in identity[:150]
    )


def _default_folder() -> str | None:
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        home = os.path.expanduser("~")
        if not os.path.isabs(home):
            return None
        base = f"{home}/.cache"
    return f"{base}/virtscope/kernels"


def _items(data: Any, key: str) -> Iterator[tuple[str, Any]]:
    table = data[key] if type(data) is dict and key in data else None
    if type(table) is not dict:
        raise ValueError(key)
    yield from table.items()


def _number(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(value)
    return value


def _address(value: Any) -> int:
    return _number(value, -(1 << 64), 1 << 64)


def _value(value: Any) -> int:
    return _number(value, -(1 << 63), (1 << 64) - 1)


def _text(value: Any) -> str:
    if type(value) is not str or len(value) > 512:
        raise ValueError(value)
    return value


def _member(data: Any, limit: int) -> Member | None:
    """A member that lies within a structure of `limit` bytes."""
    if data is None:
        return None
    if type(data) is not list or len(data) != 7:
        raise ValueError(data)
    offset, size, kind, length, target, bit_offset, bit_size = data
    _number(offset, 0, limit)
    _number(size, 0, limit - offset)
    if kind not in _KINDS or (length is not None and _number(length, 0, limit) and size % length):
        raise ValueError(data)
    if target is not None:
        _text(target)
    _number(bit_offset, 0, 64)
    _number(bit_size, -64, 64)
    return Member(offset, size, kind, length, target, bit_offset, bit_size)
