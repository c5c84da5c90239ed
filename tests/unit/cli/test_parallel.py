"""Many guests at once: order, crashes, hangs."""

from __future__ import annotations

import functools
import os
import time

from virtscope.cli.parallel import Job, run_parallel


def run(jobs: list[Job[str]], workers: int = 2, timeout: float = 120.0) -> list[str]:
    return list(
        run_parallel(
            jobs, workers=workers, timeout=timeout, failed=lambda name, sentence: f"{name}: {sentence}"
        )
    )


def slow(seconds: float, text: str) -> str:
    time.sleep(seconds)
    return text


def crash() -> str:
    os._exit(9)


def hang() -> str:
    while True:
        time.sleep(60)


def test_results_come_in_the_order_of_the_jobs() -> None:
    jobs: list[Job[str]] = [(str(n), functools.partial(slow, 0.05 * (n % 2 == 0), str(n))) for n in range(9)]
    assert run(jobs, workers=3) == [str(n) for n in range(9)]


def test_a_large_result_arrives_whole() -> None:
    jobs: list[Job[str]] = [("a", functools.partial(slow, 0, "x" * 5_000_000)), ("b", lambda: "small")]
    assert [len(result) for result in run(jobs)] == [5_000_000, 5]


def test_a_crashing_job_costs_one_line_and_not_the_run() -> None:
    jobs: list[Job[str]] = [("a", lambda: "a"), ("bad", crash), ("c", lambda: "c"), ("d", lambda: "d")]
    assert run(jobs) == ["a", "bad: the process that looked at it ended unexpectedly", "c", "d"]


def test_a_hanging_job_is_given_up_after_its_deadline() -> None:
    jobs: list[Job[str]] = [("hung", hang), ("b", lambda: "b"), ("c", lambda: "c")]
    results = run(jobs, timeout=1)
    assert results[0].startswith("hung: did not answer within 1 seconds")
    assert results[1:] == ["b", "c"]


def test_no_worker_outlives_the_run() -> None:
    iterator = run_parallel(
        [("a", lambda: os.getpid()), ("b", hang_number)], workers=2, timeout=60, failed=lambda *_: 0
    )
    worker = next(iterator)
    iterator.close()
    for _ in range(3000):
        if not os.path.exists(f"/proc/{worker}"):
            break
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{worker}")


def hang_number() -> int:
    hang()
    return 0
