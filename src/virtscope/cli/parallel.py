"""Looking at many guests at once, in forked worker processes, with a deadline for each.

Parsing is Python and bound by the processor, so workers are processes. A worker that hangs in a system call
(an image on a dead NFS server) cannot be interrupted from inside: the parent kills it when the deadline has
passed, reports that one guest, and starts another worker. `run_parallel` is the entry point.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import signal
import struct
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeVar

Result = TypeVar("Result")
Job = tuple[str, Callable[[], Result]]

_GRACE_SECONDS = 2.0
"""How long past its own deadline a worker may take to say so itself."""

_REAPED_WITHIN_SECONDS = 1.0

_HEADER = struct.Struct("<IQ")


class _Worker:
    """A forked child that is handed job numbers and sends back pickled results."""

    def __init__(self, jobs: Sequence[Job[Result]], siblings: Iterable[_Worker]) -> None:
        job_read, self.job_write = os.pipe()
        self.result_read, result_write = os.pipe()
        self.current: int | None = None
        self.deadline = 0.0
        self.buffer = bytearray()
        self.pid = os.fork()
        if self.pid == 0:
            # A pipe only ends when its last writer has closed it: keep no copies of the siblings' ends.
            for worker in (self, *siblings):
                os.close(worker.job_write)
                os.close(worker.result_read)
            _serve(jobs, job_read, result_write)
        os.close(job_read)
        os.close(result_write)

    def start(self, job: int, timeout: float) -> None:
        self.current = job
        self.deadline = time.monotonic() + timeout + _GRACE_SECONDS
        # A worker that is dead already is noticed by the end of its results.
        with contextlib.suppress(BrokenPipeError):
            os.write(self.job_write, struct.pack("<I", job))

    def stop(self, *, kill: bool) -> None:
        os.close(self.job_write)
        if kill:
            os.kill(self.pid, signal.SIGKILL)
        os.close(self.result_read)
        # One that waits for a dead disk may take the signal only when that answers: it is left behind.
        until = time.monotonic() + _REAPED_WITHIN_SECONDS
        while os.waitpid(self.pid, os.WNOHANG)[0] == 0 and time.monotonic() < until:
            time.sleep(0.001)


def _serve(jobs: Sequence[Job[Result]], job_read: int, result_write: int) -> None:
    """The child: run jobs until the pipe closes; never returns."""
    code = 0
    try:
        # One that hangs for ever must not keep the reader of our output waiting.
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)
        while number := os.read(job_read, 4):
            job = struct.unpack("<I", number)[0]
            payload = pickle.dumps(jobs[job][1](), pickle.HIGHEST_PROTOCOL)
            data = memoryview(_HEADER.pack(job, len(payload)) + payload)
            while data:
                data = data[os.write(result_write, data) :]
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        os._exit(code)


def run_parallel(
    jobs: Sequence[Job[Result]],
    *,
    workers: int,
    timeout: float,
    failed: Callable[[str, str], Result],
) -> Generator[Result, None, None]:
    """The results of `jobs`, in their order, as soon as each and all before it are there.

    Args:
        jobs: a name and a function without arguments, each; results must be picklable.
        workers: how many processes to use.
        timeout: seconds one job may take.
        failed: makes a result from a job's name and a sentence, for jobs that hung or crashed.
    """
    done: dict[int, Result] = {}
    waiting = iter(range(len(jobs)))
    emitted = 0
    selector = selectors.DefaultSelector()
    pool: set[_Worker] = set()

    def add_worker() -> None:
        job = next(waiting, None)
        if job is None:
            return
        worker = _Worker(jobs, pool)
        pool.add(worker)
        selector.register(worker.result_read, selectors.EVENT_READ, worker)
        worker.start(job, timeout)

    def drop(worker: _Worker, *, kill: bool) -> None:
        selector.unregister(worker.result_read)
        pool.discard(worker)
        worker.stop(kill=kill)

    try:
        for _ in range(min(workers, len(jobs))):
            add_worker()
        while emitted < len(jobs):
            now = time.monotonic()
            nearest = min((worker.deadline for worker in pool), default=now)
            for key, _ in selector.select(max(0.0, nearest - now)):
                worker = key.data
                if not _receive(worker, done):
                    assert worker.current is not None
                    name = jobs[worker.current][0]
                    done[worker.current] = failed(name, "the process that looked at it ended unexpectedly")
                    drop(worker, kill=False)
                    add_worker()
                elif worker.current is None:
                    job = next(waiting, None)
                    if job is None:
                        drop(worker, kill=False)
                    else:
                        worker.start(job, timeout)
            now = time.monotonic()
            for worker in [worker for worker in pool if worker.deadline <= now]:
                assert worker.current is not None
                name = jobs[worker.current][0]
                done[worker.current] = failed(
                    name, f"did not answer within {timeout:g} seconds and was given up"
                )
                drop(worker, kill=True)
                add_worker()
            while emitted in done:
                yield done.pop(emitted)
                emitted += 1
    finally:
        for worker in list(pool):
            drop(worker, kill=True)
        selector.close()


def _receive(worker: _Worker, done: dict[int, Result]) -> bool:
    """Take what a worker sent; False when it is gone."""
    data = os.read(worker.result_read, 1 << 20)
    if not data:
        return False
    worker.buffer += data
    if len(worker.buffer) >= _HEADER.size:
        job, size = _HEADER.unpack_from(worker.buffer)
        if len(worker.buffer) == _HEADER.size + size:
            done[job] = pickle.loads(memoryview(worker.buffer)[_HEADER.size :])
            worker.buffer = bytearray()
            worker.current = None
    return True
