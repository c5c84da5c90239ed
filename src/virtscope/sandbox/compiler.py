"""Builds the guest's init from its C sources, once per content, with the host's C compiler.

The repository carries no binary: the program in the guest is compiled on first use and kept in the cache.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from virtscope.errors import MissingDependency
from virtscope.sandbox import cache

SOURCES = Path(__file__).with_name("guest")


def guest_init() -> Path:
    """Returns the static init program, compiled if this content has not been compiled before.

    Raises:
        MissingDependency: there is no C compiler, or it cannot link statically.
    """
    return _guest_init(cache.cache_directory())


@functools.cache
def _guest_init(_folder: Path) -> Path:
    # once a process: reading and hashing the sources is a part of every start
    sources = sorted(SOURCES.glob("*.[ch]"))
    key = cache.fingerprint(*(source.read_bytes() for source in sources))
    units = [source for source in sources if source.suffix == ".c"]
    return cache.build(f"init-{key}", lambda path: _compile(["-static", "-s"], units, path), mode=0o755)


def shared_library(source: Path) -> Path:
    """Returns a shared library made of one C source.

    Raises:
        MissingDependency: there is no C compiler.
    """
    key = cache.fingerprint(source.read_bytes())
    return cache.build(
        f"{source.stem}-{key}.so", lambda path: _compile(["-shared", "-fPIC"], [source], path), mode=0o755
    )


def _compile(options: list[str], units: list[Path], output: Path) -> None:
    import shutil
    import subprocess

    compiler = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        raise MissingDependency(
            "the sandbox's guest program is compiled on first use, and there is no C compiler (gcc or clang)"
        )
    command = [compiler, *options, "-Os", "-std=gnu11", "-o", str(output), *map(str, units)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MissingDependency(
            f"{compiler} could not build the sandbox's guest program (static libc missing?): {last}"
        )
