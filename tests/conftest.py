"""What all tests share: which ones run by default, what a skip means in CI, and guests of the lab."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lab import Guest
    from lab.libvirt import Libvirt

NOT_BY_DEFAULT = ("matrix", "slow")
"""Markers of tests that run only when `-m` asks for them."""

MISSING_HARDWARE = "hardware:"
"""How the reason of a skip starts that is no failure in CI."""


def pytest_configure(config: pytest.Config) -> None:
    from hypothesis import HealthCheck, settings

    # The default run tries the same examples each time, however slow the machine is; `-m slow` explores.
    settings.register_profile(
        "virtscope",
        derandomize="slow" not in (config.getoption("-m") or "").replace("not slow", ""),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("virtscope")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("-m"):
        left_out = [item for item in items if any(item.get_closest_marker(name) for name in NOT_BY_DEFAULT)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    if config.pluginmanager.hasplugin("xdist"):
        # With --dist loadgroup, the tests of one shared guest go to one worker, so that it boots once.
        for item in items:
            kernel = getattr(item, "callspec", None) and item.callspec.params.get("guest")  # type: ignore[attr-defined]
            if kernel:
                item.add_marker(pytest.mark.xdist_group(f"guest-{kernel}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith(MISSING_HARDWARE):
            report.outcome = "failed"
            report.longrepr = f"a skip is a failure in CI: {reason}"
    return report


@contextlib.contextmanager
def lab_needed() -> Iterator[None]:
    """Skips the test where the lab cannot work (offline, no QEMU); in CI that is a failure."""
    from lab import LabUnavailable

    try:
        yield
    except LabUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no lab: {error}")


@pytest.fixture
def boot() -> Iterator[Callable[..., Guest]]:
    """Boots a guest of the test's own (arguments as for `lab.Guest`); it is gone after the test."""
    from lab import Guest

    with contextlib.ExitStack() as stack:

        def boot_guest(*arguments: object, **options: object) -> Guest:
            with lab_needed():
                return stack.enter_context(Guest(*arguments, **options))  # type: ignore[arg-type]

        yield boot_guest


@pytest.fixture(scope="session")
def libvirt_daemon() -> Iterator[Libvirt]:
    """A private libvirtd, shared by the tests of a worker; `libvirt_daemon.start(...)` boots a domain."""
    with lab_needed():
        from lab.libvirt import Libvirt

        daemon = Libvirt()
        daemon.__enter__()
    try:
        yield daemon
    finally:
        daemon.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write golden files anew, for review")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares text with a file of tests/golden; a missing one is a failure unless --regenerate writes it."""
    folder = Path(__file__).with_name("golden")

    def compare(name: str, text: str) -> None:
        path = folder / name
        if request.config.getoption("--regenerate"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing: run pytest --regenerate and review what it writes"
        assert text == path.read_text(encoding="utf-8")

    return compare
