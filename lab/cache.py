"""Where the lab keeps what it fetches and builds, and how several runs share it.

One folder, `$VIRTSCOPE_LAB` or `~/.cache/virtscope-lab`. It can be deleted at any time: what is needed is
made again. A thing is made once under a lock (several test workers start at the same moment) in a temporary
place beside its final one, then renamed, so that what exists is complete.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class LabError(Exception):
    """The lab could not do what was asked: no package, no program, a guest that did not boot."""


class LabUnavailable(LabError):
    """The lab cannot work on this machine now: offline, or a program of the host is not installed."""


def root() -> Path:
    """The lab's folder; made when it is not there."""
    path = Path(os.environ.get("VIRTSCOPE_LAB") or Path.home() / ".cache" / "virtscope-lab")
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Holds the lab-wide lock `name` (a file name), waiting for it; freed by the kernel if we die."""
    folder = root() / "locks"
    folder.mkdir(exist_ok=True)
    with open(folder / f"{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """Returns `path`, calling `make(temporary path)` first when it is not there yet.

    Args:
        path: A file or folder below the lab's root.
        make: Writes the file, or fills the folder (which it creates), at the path it is given.
    """
    if path.exists():
        return path
    with locked("-".join(path.relative_to(root()).parts)):
        if path.exists():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)
        make(temporary)
        temporary.rename(path)
    return path


def scratch_folder() -> Path:
    """A new folder for one guest's sockets and logs; those of lab processes that were killed are removed."""
    for path in Path(tempfile.gettempdir()).glob("virtscope-lab-*-*"):
        owner = path.name.split("-")[2]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(path, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"virtscope-lab-{os.getpid()}-"))


def program(name: str, package: str) -> str:
    """Path of a host program.

    Args:
        name: The program's name.
        package: The Debian package that has it, for the message.

    Raises:
        LabUnavailable: It is not installed.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin:/usr/lib/qemu")
    if not found:
        raise LabUnavailable(f"the lab needs {name}: apt-get install {package}")
    return found
