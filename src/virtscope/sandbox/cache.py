"""Where the sandbox keeps what it has built: the guest's init, kernels made ready, snapshots.

Everything is named by a hash of what it was made from and appears by an atomic rename, so that concurrent
starts never see half of anything and a changed input simply makes a new entry. Entry point: `build`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from virtscope.errors import AccessDenied

if TYPE_CHECKING:
    from pathlib import Path

# What every start goes through does without pathlib and OpenSSL: together they take longer to load than most
# of a start without a machine.
try:
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b


def folder() -> str:
    """The user's cache folder for sandboxes, made on first use and readable by nobody else."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    path = os.path.join(base, "virtscope", "sandbox")
    if os.path.isdir(path):
        return path
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise AccessDenied(
            f"{path}: {error.strerror}; set XDG_CACHE_HOME to a folder that can be written"
        ) from None
    return path


def cache_directory() -> Path:
    """`folder` as a path."""
    from pathlib import Path

    return Path(folder())


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the cache's lock called `name`; waits for other processes."""
    import fcntl

    fd = os.open(os.path.join(folder(), f".{name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def build(name: str, make: Callable[[Path], None], *, mode: int = 0o644) -> Path:
    """Returns the cached file `name`, made by `make(temporary path)` if it is not there yet.

    Concurrent callers wait for the first one. An entry that `make` leaves unfinished by an error is removed.
    """
    path = cache_directory() / name
    if path.exists():
        return path
    with locked(name):
        if path.exists():
            return path
        temporary = path.with_name(f".{name}.{os.getpid()}")
        try:
            make(temporary)
            temporary.chmod(mode)
            temporary.rename(path)
        except OSError as error:
            import errno

            if error.errno != errno.ENOSPC:
                raise
            raise AccessDenied(f"{path}: no space left to build it") from None
        finally:
            temporary.unlink(missing_ok=True)
    return path


def fingerprint(*parts: str | bytes | int) -> str:
    """A short name for what these parts say together."""
    digest = blake2b(digest_size=10)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def file_identity(path: str | os.PathLike[str]) -> str:
    """What changes when a file is replaced: its path, size and time of change."""
    status = os.stat(path)
    return f"{os.fspath(path)}:{status.st_size}:{status.st_mtime_ns}:{status.st_ino}"
