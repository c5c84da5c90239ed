"""Reads many translation units at once, each in a process of its own kind, and survives what clang does to
them.

:func:`read_all` is the entry point. A unit that makes clang crash, run for minutes or eat all memory costs
that unit, never the run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from . import cache as cache_module
from .cache import Cache
from .compiledb import Command
from .ir import Unit

SECONDS = 180
"""How long one unit may take."""
MEMORY = 6 << 30
"""How many bytes of address space a reader may use."""
_LOST = "\n"
"""Ends the text of a unit that must be tried again next time."""

Progress = Callable[[str, int, int], None]


def read_all(
    commands: list[Command], cache: Cache, jobs: int = 0, progress: Progress | None = None
) -> Iterator[Unit]:
    """Every unit, from the cache or read anew, in the order of the commands."""
    texts: dict[int, str] = {}
    missing: list[int] = []
    for i, command in enumerate(commands):
        text = cache.unit(command)
        if text is None:
            missing.append(i)
        else:
            texts[i] = text
    done = len(texts)
    for i, text in _read(commands, missing, jobs or os.cpu_count() or 1):
        texts[i] = text
        done += 1
        if progress is not None:
            progress("reading", done, len(commands))
        if not text.endswith(_LOST):
            cache.keep_unit(commands[i], json.loads(text)["includes"], text)
    for i in range(len(commands)):
        yield Unit.from_json(json.loads(texts.pop(i)))


def _read(commands: list[Command], wanted: list[int], jobs: int) -> Iterator[tuple[int, str]]:
    waiting = list(reversed(wanted))
    if not waiting:
        return
    running: dict[Future[str], int] = {}
    lost: list[int] = []
    with ProcessPoolExecutor(min(jobs, len(waiting)), initializer=_limit) as pool:
        while waiting or running:
            try:
                while waiting and len(running) < 2 * jobs:
                    running[pool.submit(_one, commands[waiting[-1]])] = waiting[-1]
                    waiting.pop()
            except BrokenProcessPool:
                lost += [*running.values(), *waiting]
                break
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                i = running.pop(future)
                try:
                    yield i, future.result()
                except BrokenProcessPool:
                    lost.append(i)
    for i in lost:  # one of them brought its reader down: each alone tells which
        with ProcessPoolExecutor(1, initializer=_limit) as pool:
            try:
                yield i, pool.submit(_one, commands[i]).result()
            except BrokenProcessPool:
                reason = f"clang crashed on it, or needed more than {SECONDS} s or {MEMORY >> 30} GiB"
                yield i, json.dumps(Unit(commands[i].file, problem=reason, fatal=True).to_json()) + _LOST


def _limit() -> None:
    import resource
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or soft > MEMORY:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _one(command: Command) -> str:
    import signal

    from . import frontend

    signal.alarm(SECONDS)
    unit = frontend.read(command.file, list(command.arguments), command.directory)
    data = unit.to_json()
    for row in data["functions"]:
        row.append(cache_module.digest(row))
    text = json.dumps(data, separators=(",", ":"))
    signal.alarm(0)
    return text
