"""virt-lockcheck's speed and its share of planted mistakes found, on a program with a compilation database.

    python bench/lockcheck.py speed BUILD_DIR RULES
    python bench/lockcheck.py mutate BUILD_DIR RULES [LIMIT]

`speed` runs cold (an empty cache) and warm (nothing changed; one file changed), and beside it the time that
clang alone needs to parse the same files in as many processes (what `-fsyntax-only` does). Times are of the
wall clock and of the processors; on a busy machine only the latter mean something.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

from virtscope.lockcheck import check, compiledb, frontend, mutation, program, rules
from virtscope.lockcheck.cache import Cache, default_folder
from virtscope.lockcheck.clangapi import clang
from virtscope.lockcheck.reading import read_all


def _processor() -> float:
    mine, theirs = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return mine.ru_utime + mine.ru_stime + theirs.ru_utime + theirs.ru_stime


def _parse(command: compiledb.Command) -> None:
    """What clang alone does with a file: parse it and say what is wrong."""
    words = [f"-working-directory={command.directory}", *command.arguments]
    words += [x for folder in frontend.builtin_headers() for x in ("-isystem", folder)]
    library = clang()
    index = library.createIndex(0, 0)
    handle = frontend._parse(library, index, command.file, [*words, *frontend._TOLERANT])[0]
    if handle is not None:
        library.disposeTranslationUnit(handle)
    library.disposeIndex(index)


def speed(build: str, name: str) -> None:
    chosen = rules.load(name)
    commands = compiledb.load(build)
    jobs = os.cpu_count() or 1
    rows: list[tuple[str, float, float]] = []

    def timed(what: str, cache: str | None) -> None:
        start, used = time.perf_counter(), _processor()
        if cache is None:
            with ProcessPoolExecutor(jobs) as pool:
                list(pool.map(_parse, commands, chunksize=2))
        else:
            check.run(commands, chosen, cache=cache)
        rows.append((what, time.perf_counter() - start, _processor() - used))

    with tempfile.TemporaryDirectory() as folder:
        timed("clang alone (parse only)", None)
        timed("cold", folder)
        timed("warm, nothing changed", folder)
        stamps = os.path.join(folder, "stamps")
        os.unlink(os.path.join(stamps, sorted(os.listdir(stamps))[0]))
        timed("warm, one file read anew", folder)
    print(f"{len(commands)} files, {jobs} processes")
    for what, wall, used in rows:
        print(f"{what:28} {wall:7.1f} s wall {used:7.1f} s processor")


def mutate(build: str, name: str, limit: int) -> None:
    chosen = rules.load(name)
    units = read_all(compiledb.load(build), Cache(os.environ.get("LOCKCHECK_CACHE") or default_folder()))
    whole = program.collect(units, chosen)
    mutation.with_digests(whole.functions)
    outcome = mutation.measure(whole, limit)
    total = len(outcome.found) + len(outcome.missed)
    print(f"{len(outcome.found)} of {total} planted mistakes found ({100 * outcome.rate:.1f} %)")
    for mutant in outcome.missed:
        print(f"missed: {mutant.function}:{mutant.line}: {mutant.how} {mutant.callee}")


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[1] not in ("speed", "mutate"):
        sys.exit(__doc__)
    if sys.argv[1] == "speed":
        speed(sys.argv[2], sys.argv[3])
    else:
        mutate(sys.argv[2], sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else 0)
