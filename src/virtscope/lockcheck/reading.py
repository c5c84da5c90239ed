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

SECONDS = 60
"""How much processor time one unit may take."""
WAIT = 300
"""How long one unit may take by the clock."""
MEMORY = 4 << 30
"""How many bytes of address space a reader may use."""
STACK = 96 << 20
"""How many bytes of stack a reader may use: clang and its tree walk recurse as deep as the code nests."""
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
    while waiting:
        suspects: list[int] = []
        with ProcessPoolExecutor(min(jobs, len(waiting)), initializer=_limit) as pool:
            running: dict[Future[str], int] = {}
            while (waiting or running) and not suspects:
                try:
                    while waiting and len(running) <= jobs:
                        running[pool.submit(_one, commands[waiting[-1]])] = waiting[-1]
                        waiting.pop()
                except BrokenProcessPool:
                    suspects += running.values()
                    break
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    i = running.pop(future)
                    try:
                        yield i, future.result()
                    except BrokenProcessPool:
                        suspects.append(i)
                if suspects:
                    suspects += running.values()
        # One of them brought its reader down, and the others with it: each alone tells which.
        for i in suspects:
            yield i, _lost(commands[i]) if len(suspects) == 1 else _alone(commands[i])


def _alone(command: Command) -> str:
    with ProcessPoolExecutor(1, initializer=_limit) as pool:
        try:
            return pool.submit(_one, command).result()
        except BrokenProcessPool:
            return _lost(command)


def _lost(command: Command) -> str:
    reason = f"clang crashed on it, or needed more than {SECONDS} s or {MEMORY >> 30} GiB"
    return json.dumps(Unit(command.file, problem=reason, fatal=True).to_json()) + _LOST


def _limit() -> None:
    import resource
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for what, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        soft, hard = resource.getrlimit(what)
        if soft == resource.RLIM_INFINITY or soft > most:
            resource.setrlimit(what, (most, hard))
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if soft != resource.RLIM_INFINITY and soft < STACK and (hard == resource.RLIM_INFINITY or hard >= STACK):
        resource.setrlimit(resource.RLIMIT_STACK, (STACK, hard))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # clang writes there when it crashes
    os.environ["LIBCLANG_NOTHREADS"] = "1"  # clang's own threads have 8 MiB of stack


def _one(command: Command) -> str:
    import ctypes
    import signal

    from . import frontend

    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(WAIT)
    try:
        unit = frontend.read(command.file, list(command.arguments), command.directory)
    except (RecursionError, MemoryError, ctypes.ArgumentError):  # ctypes wraps what happens in a call
        unit = Unit(command.file, problem="is nested too deeply, or too large", fatal=True)
    data = unit.to_json()
    for row in data["functions"]:
        row.append(cache_module.digest(row))
    text = json.dumps(data, separators=(",", ":"))
    signal.alarm(0)
    signal.setitimer(signal.ITIMER_PROF, 0)
    return text
