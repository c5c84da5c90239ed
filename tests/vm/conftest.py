"""The shared guests: `guest` is one booted guest for each kernel, which tests must leave as it was.

The fixtures of the tests of sandboxes are in `sandboxes.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import Guest
from lab.kernels import DEFAULT, MATRIX
from tests.conftest import lab_needed
from tests.vm.sandboxes import daemon, sandbox, shared
from tests.vm.views_truth import patient_monitors

__all__ = ["daemon", "sandbox", "shared"]  # fixtures


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "guest" not in metafunc.fixturenames:
        return
    for mark in metafunc.definition.iter_markers("parametrize"):
        if "guest" in mark.args[0]:
            return
    # `-m matrix` is for every kernel; the default ones are not marked in a default run.
    expression = metafunc.config.getoption("-m") or ""
    whole_matrix = "matrix" in expression and "not matrix" not in expression
    metafunc.parametrize(
        "guest",
        [
            pytest.param(name, marks=[pytest.mark.matrix] if whole_matrix or name not in DEFAULT else [])
            for name in MATRIX
        ],
        indirect=True,
        scope="session",
    )


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """See `patient_monitors`."""
    with patient_monitors():
        yield


@pytest.fixture(scope="session")
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A booted guest with the lab's default user space, shared by tests that only look at it."""
    with lab_needed():
        shared = Guest(str(request.param), memory_mib=512, name=f"shared-{request.param}").__enter__()
    try:
        yield shared
    finally:
        shared.close()
