"""The back ends that the tests of sandboxes run on, a private libvirtd among them, and their processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.libvirt import Libvirt
from tests.conftest import lab_needed
from virtscope.sandbox import Sandbox, backends, libvirt_backend, process
from virtscope.sandbox.session import Session

WORKING = {backend.name: backend for backend in backends.available()}
MACHINES = ("qemu:", "uml:")
# libvirt starts a machine slowly, and once for each test: not in the default run
EVERY = (
    "qemu:",
    "uml:",
    "namespaces:",
    "lxc:///system",
    pytest.param("qemu:///system", marks=pytest.mark.slow),
    pytest.param("qemu:///session", marks=pytest.mark.slow),
)


def usable(name: str) -> Sandbox:
    backend = WORKING[name]
    if not backend.works:
        pytest.skip(f"hardware: {name} cannot run here: {backend.note}")
    return Sandbox().on(name)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """From a libvirt URI of the system to that of a private daemon, started when somebody asks."""
    started: list[Libvirt] = []
    with pytest.MonkeyPatch.context() as patch:
        # what the daemon's own view of the host covers is no place for a socket both can see
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))

        def uri(name: str) -> str:
            if not started:
                with lab_needed():
                    started.append(Libvirt().__enter__())
            return started[0].uri.replace("qemu+", name.partition(":")[0] + "+", 1)

        yield uri
        for one in started:
            one.close()


def chosen(name: str, daemon: Callable[[str], str]) -> Sandbox:
    if "///" not in name or WORKING[name].works:
        return usable(name)
    return Sandbox().on(daemon(name))


@pytest.fixture(params=EVERY)
def sandbox(request: pytest.FixtureRequest, daemon: Callable[[str], str]) -> Sandbox:
    return chosen(request.param, daemon)


@pytest.fixture(scope="module", params=EVERY)
def shared(request: pytest.FixtureRequest, daemon: Callable[[str], str]) -> Iterator[Session]:
    """One sandbox that many commands share."""
    with chosen(request.param, daemon) as session:
        yield session


def machine_processes(session: Session) -> list[int]:
    """The host's processes that are this sandbox's machine; none for a container."""
    machine = session.machine
    if isinstance(machine, process.Group):
        return [one.pid for one in machine.processes]
    if isinstance(machine, process.HostProcess):
        return [machine.pid, *descendants(machine.pid)]
    assert isinstance(machine, libvirt_backend.DomainMachine)
    name = machine.name.encode()
    lines = {int(path.parent.name): _command_line(path) for path in Path("/proc").glob("[0-9]*/cmdline")}
    return [pid for pid, line in lines.items() if b"qemu-system" in line and b"guest=" + name in line]


def _command_line(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found |= {int(child)} | descendants(int(child))
    return found


def runs(pid: int) -> bool:
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return False
    # a user's libvirt starts when it is needed, and stays for a while
    return rest.split()[0] != "Z" and not name.endswith(("(libvirtd", "(virtlogd"))
