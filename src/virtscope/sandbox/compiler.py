"""Builds the guest's init from its C sources, once per content, with the host's C compiler.

The repository carries no binary: the program in the guest is compiled on first use and kept in the cache.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from virtscope.errors import MissingDependency
from virtscope.sandbox import cache

if TYPE_CHECKING:
    from pathlib import Path

HERE = os.path.dirname(os.path.abspath(__file__))


def guest_init() -> str:
    """Returns the path of the static init program, compiled if this content has not been compiled before.

    Raises:
        MissingDependency: there is no C compiler, or it cannot link statically.
    """
    return _guest_init(cache.folder())


@functools.cache
def _guest_init(_folder: str) -> str:
    # once a process: reading and hashing the sources is a part of every start
    place = os.path.join(HERE, "guest")
    sources = [os.path.join(place, name) for name in sorted(os.listdir(place)) if name.endswith((".c", ".h"))]
    units = [source for source in sources if source.endswith(".c")]
    return _built(f"init-{cache.fingerprint(*map(_content, sources))}", ["-static", "-s"], units)


def shared_library(name: str) -> str:
    """Returns the path of a shared library made of one C source of this folder.

    Raises:
        MissingDependency: there is no C compiler.
    """
    source = os.path.join(HERE, name)
    key = cache.fingerprint(_content(source))
    return _built(f"{name.removesuffix('.c')}-{key}.so", ["-shared", "-fPIC"], [source])


def _content(source: str) -> bytes:
    with open(source, "rb") as stream:
        return stream.read()


def _built(name: str, options: Sequence[str], units: Sequence[str]) -> str:
    path = os.path.join(cache.folder(), name)
    if not os.path.exists(path):
        cache.build(name, lambda output: _compile(options, units, output), mode=0o755)
    return path


def _compile(options: Sequence[str], units: Sequence[str], output: Path) -> None:
    import shutil
    import subprocess

    compiler = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        raise MissingDependency(
            "the sandbox's guest program is compiled on first use, and there is no C compiler (gcc or clang)"
        )
    command = [compiler, *options, "-Os", "-std=gnu11", "-o", str(output), *units]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MissingDependency(
            f"{compiler} could not build the sandbox's guest program (static libc missing?): {last}"
        )
