"""What an earlier run learned, kept as plain JSON under the user's cache folder.

Three layers, each keyed by the content it was made from: a translation unit's flow graphs (by the bytes of
the file and all its headers, and the compiler arguments), a function's result (by its graph and what it
calls), and a whole run's report. Each file starts with a checksum of the rest: a cache that is damaged, or
of another version, is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable
from typing import Any

from .compiledb import Command
from .ir import IR_VERSION

RESULT_VERSION = 18
"""Raise it when the analysis finds other things in the same graph."""

KEPT = 64
"""How many reports, and how many programs' functions, are kept."""


def default_folder() -> str:
    """``$XDG_CACHE_HOME/virtscope/lockcheck`` or its usual place."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "virtscope", "lockcheck")


class Cache:
    """The cache's files. With ``folder`` None nothing is kept and nothing is found."""

    def __init__(self, folder: str | None) -> None:
        self.folder = folder
        self._hashes: dict[str, str] = {}
        self._started = time.time()
        self._young: set[str] = set()

    def content(self, path: str) -> str:
        """A hash of a file's bytes; empty when it cannot be read. Each file is read once in a run."""
        known = self._hashes.get(path)
        if known is None:
            try:
                status = os.stat(path)
                if not stat.S_ISREG(status.st_mode):
                    raise OSError
                if status.st_mtime > self._started:
                    self._young.add(path)
                with open(path, "rb") as stream:
                    known = hashlib.blake2b(stream.read(), digest_size=16).hexdigest()
            except (OSError, ValueError):
                known = ""
            self._hashes[path] = known
        return known

    def contents(self, paths: Iterable[str]) -> str:
        """One hash of several files."""
        return digest([[p, self.content(p)] for p in paths])

    def stamp(self, command: Command) -> str:
        """A hash of all a unit was read from, if that is still as it was; empty otherwise."""
        stored = self._read("stamps", _unit_key(command))
        try:
            includes, expected = json.loads(stored or "")
            now = self.contents(includes)
            return digest([_unit_key(command), now]) if now == expected else ""
        except (ValueError, TypeError):
            return ""

    def unit(self, command: Command) -> str | None:
        """The stored text of a unit, if its file and headers are what they were."""
        return self._read("units", _unit_key(command)) if self.stamp(command) else None

    def keep_unit(self, command: Command, includes: list[str], text: str) -> None:
        """Stores a unit's text."""
        if self.folder is None:
            return
        every = sorted({command.file, *includes})
        contents = self.contents(every)
        if not self._young.isdisjoint(every):
            return  # changed since this run began: what was read may have been the old or the new
        self._write("units", _unit_key(command), text)
        self._write("stamps", _unit_key(command), json.dumps([every, contents]))

    def load(self, kind: str, key: str) -> Any | None:
        """Something stored under a key, or None."""
        stored = self._read(kind, key)
        try:
            return None if stored is None else json.loads(stored)
        except (ValueError, RecursionError):
            return None

    def keep(self, kind: str, key: str, value: Any) -> None:
        """Stores something under a key; of each kind the latest :data:`KEPT` stay."""
        if self.folder is None:
            return
        self._write(kind, key, json.dumps(value, separators=(",", ":")))
        try:
            with os.scandir(os.path.join(self.folder, kind)) as entries:
                files = sorted(entries, key=lambda e: e.stat().st_mtime, reverse=True)
            for entry in files[KEPT:]:
                os.unlink(entry.path)
        except OSError:
            return

    def _path(self, kind: str, key: str) -> str:
        return os.path.join(self.folder or "", kind, f"{key}.json")

    def _read(self, kind: str, key: str) -> str | None:
        if self.folder is None:
            return None
        try:
            with open(self._path(kind, key), encoding="utf-8") as stream:
                expected = stream.readline()
                text = stream.read()
        except (OSError, UnicodeDecodeError):
            return None
        return text if expected == f"{_checksum(text)}\n" else None

    def _write(self, kind: str, key: str, text: str) -> None:
        if self.folder is None:
            return
        path = self._path(kind, key)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            temporary = f"{path}.{os.getpid()}"
            with open(temporary, "w", encoding="utf-8") as stream:
                stream.write(f"{_checksum(text)}\n{text}")
            os.replace(temporary, path)
        except OSError:
            return  # a full or read-only disk costs speed, nothing else


def digest(value: Any) -> str:
    """A short hash of JSON values."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


def _checksum(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _unit_key(command: Command) -> str:
    return digest([IR_VERSION, command.file, command.directory, command.arguments])
