"""The same behaviour from every back end that this host can run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.libvirt import Libvirt
from tests.conftest import lab_needed
from virtscope.errors import AccessDenied, SandboxError, SandboxTimeout, UsageError
from virtscope.sandbox import Sandbox, backends, cache, cgroups, libvirt_backend, process
from virtscope.sandbox.process import Group
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


def test_status_and_streams_apart(shared: Session) -> None:
    result = shared.run(["sh", "-c", "echo out; echo err >&2; exit 42"], timeout=30)
    assert (result.status, result.stdout, result.stderr) == (42, b"out\n", b"err\n")


def test_signal_is_128_plus_n(shared: Session) -> None:
    result = shared.run(["sh", "-c", "kill -TERM $$"], timeout=30)
    assert (result.status, result.signal) == (143, 15)


def test_command_that_cannot_start(shared: Session) -> None:
    assert shared.run(["/no/such/program"], timeout=30).status == 127
    assert shared.run(["/etc/passwd"], timeout=30).status == 126
    assert shared.run(["true"], cwd="/no/such/folder", timeout=30).status == 125


def test_input_reaches_its_end(shared: Session) -> None:
    text = b"no newline at the end"
    assert shared.run(["cat"], input=text, timeout=30).stdout == text
    assert shared.run(["wc", "-c"], timeout=30).stdout.strip() == b"0"


def test_megabytes_through_both_pipes(shared: Session) -> None:
    data = os.urandom(1 << 20) * 4
    result = shared.run(["sh", "-c", "tee /dev/stderr"], input=data, timeout=120)
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()
    assert result.stderr == result.stdout


@pytest.mark.slow
def test_a_hundred_megabytes_each_way(shared: Session, tmp_path: Path) -> None:
    """Through descriptors, as the command line does it."""
    source, target = tmp_path / "in", tmp_path / "out"
    block = os.urandom(1 << 20)
    with open(source, "wb") as stream:
        for number in range(100):
            stream.write(number.to_bytes(8, "little") + block[8:])
    with open(source, "rb") as given, open(target, "wb") as got:
        run = shared.start(["cat"], stdin=given.fileno(), stdout=got.fileno())
        assert shared.wait(run, time.monotonic() + 300).status == 0
    assert target.stat().st_size == 100 << 20
    sums = [hashlib.file_digest(open(path, "rb"), "sha256").digest() for path in (source, target)]  # noqa: SIM115
    assert sums[0] == sums[1]


def test_command_that_does_not_read_its_input(shared: Session) -> None:
    assert shared.run(["sh", "-c", "exit 7"], input=bytes(2 << 20), timeout=30).status == 7


def test_background_children_do_not_hold_the_command(shared: Session) -> None:
    began = time.monotonic()
    result = shared.run(["sh", "-c", "sleep 60 & echo done"], timeout=30)
    assert result.stdout == b"done\n"
    assert time.monotonic() - began < 30


def test_two_commands_at_once(shared: Session) -> None:
    first = shared.start(["sh", "-c", "sleep 0.3; echo first"])
    second = shared.start(["cat"], stdin=b"second")
    assert shared.wait(second).stdout == b"second"
    assert shared.wait(first).stdout == b"first\n"


def test_reader_that_leaves_ends_the_writer(shared: Session) -> None:
    reader, writer = os.pipe()
    run = shared.start(["yes"], stdout=writer)
    os.close(writer)
    threading.Timer(0.3, os.close, [reader]).start()
    assert shared.wait(run, time.monotonic() + 30).signal == 13


def test_root_is_the_hosts_and_read_only(shared: Session) -> None:
    assert shared.run(["cat", "/etc/passwd"], timeout=30).stdout == Path("/etc/passwd").read_bytes()
    assert shared.run(["touch", "/etc/virtscope-was-here"], timeout=30).status != 0
    assert not Path("/etc/virtscope-was-here").exists()


def test_private_folders_are_empty_and_writable(shared: Session) -> None:
    result = shared.run(
        ["sh", "-c", "touch /tmp/x && ls -A /tmp /home && mount | grep -c ' /tmp '"], timeout=30
    )
    assert result.status == 0
    assert b"x" in result.stdout


def test_runs_as_the_caller_with_a_clean_environment(shared: Session) -> None:
    result = shared.run(["sh", "-c", "id -u; env"], timeout=30)
    lines = result.stdout.decode().splitlines()
    assert lines[0] == str(os.getuid())
    assert not any(line.startswith(("PYTEST", "VIRTUAL_ENV")) for line in lines)
    assert any(line.startswith("PATH=") for line in lines)


def test_nothing_that_is_open_outside_is_open_inside(sandbox: Sandbox) -> None:
    with open("/etc/passwd", "rb") as ours:
        left_open = os.dup(ours.fileno())
        os.set_inheritable(left_open, True)
        try:
            with sandbox as session:
                result = session.run(["sh", "-c", "readlink /proc/self/fd/*"], timeout=60)
        finally:
            os.close(left_open)
    names = [name for name in result.stdout.decode().split() if not name.startswith(("pipe:", "/proc/"))]
    assert not names, result


def test_only_its_own_processes_are_there(shared: Session) -> None:
    result = shared.run(["sh", "-c", "ls /proc | grep -c '^[0-9]'; cat /proc/1/comm"], timeout=30)
    assert b"python" not in result.stdout
    assert shared.run(["cat", f"/proc/{os.getpid()}/cmdline"], timeout=30).stdout.count(b"pytest") == 0


def test_terminal(shared: Session) -> None:
    result = shared.run(["sh", "-c", "tty && stty size"], terminal=(33, 77), timeout=30)
    assert result.stdout.split()[-2:] == [b"33", b"77"]
    assert b"/dev/pts/" in result.stdout


def test_terminal_interrupt_and_job_control(shared: Session) -> None:
    run = shared.start(
        ["sh", "-c", "trap 'echo caught; exit 5' INT; while :; do sleep 0.1; done"], terminal=(24, 80)
    )
    shared.pump(lambda: run.started, time.monotonic() + 30)
    time.sleep(0.5)
    run.stdin = b"\x03"
    result = shared.wait(run, time.monotonic() + 30)
    assert result.status == 5
    assert b"caught" in result.stdout


def test_window_size_changes(shared: Session) -> None:
    script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.1; done"
    run = shared.start(["bash", "-c", script], terminal=(24, 80))
    shared.pump(lambda: b"ready" in run.sinks[0].collected, time.monotonic() + 30)
    shared.resize(run, 50, 132)
    assert b"50 132" in shared.wait(run, time.monotonic() + 30).stdout


def test_no_network_by_default(shared: Session) -> None:
    names = shared.run(["ls", "/sys/class/net"], timeout=30).stdout.split() if WORKING else []
    routes = shared.run(["cat", "/proc/net/route"], timeout=30).stdout.splitlines()
    assert len(routes) <= 1, (names, routes)


def test_mounts(sandbox: Sandbox, tmp_path: Path) -> None:
    shown, shared_folder = tmp_path / "shown", tmp_path / "shared"
    for folder in (shown, shared_folder):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
    box = (
        sandbox.with_bind("/tmp/shown", str(shown))
        .with_bind("/tmp/shared", str(shared_folder), writable=True)
        .with_ram("/tmp/ram", "16M")
        .with_file(str(shown / "file"), "/tmp/included/copy")
    )
    script = """
        cat /tmp/shown/file /tmp/shared/file /tmp/included/copy
        touch /tmp/shown/no 2>/dev/null && echo "shown is writable"
        echo changed > /tmp/shared/new && echo more >> /tmp/included/copy
        df -k /tmp/ram | tail -1 | tr -s ' ' | cut -d' ' -f2
    """
    with box as session:
        result = session.run(["sh", "-c", script], timeout=60)
    assert result.stdout.decode() == "shownsharedshown" + "16384\n", result
    assert (shared_folder / "new").read_text() == "changed\n"
    assert (shown / "file").read_text() == "shown"


@pytest.mark.parametrize(
    ("name", "transport"),
    [("qemu:", "9p"), ("qemu:", "virtiofs"), ("uml:", "auto"), ("namespaces:", "auto")],
)
def test_a_single_file_shared_for_writing(name: str, transport: str, tmp_path: Path) -> None:
    shared, beside = tmp_path / "shared", tmp_path / "beside"
    shared.write_text("host\n")
    beside.write_text("secret")
    box = usable(name).with_options(transport=transport).with_user("root")
    box = box.with_bind("/tmp/file", str(shared), writable=True)
    assert str(tmp_path) not in box.dry_run()
    look = "mkdir /tmp/look; mount -t virtiofs bind0 /tmp/look && ls -A /tmp/look && touch /tmp/look/new"
    with box as session:
        result = session.run(["sh", "-c", "cat /tmp/file; echo guest >> /tmp/file"], timeout=60)
        assert result.stdout == b"host\n", result
        if transport == "virtiofs":
            # not even its root finds anything else in what the machine was given; 9p exports the same
            seen = session.run(["sh", "-c", look], timeout=60)
            assert (seen.status, seen.stdout) == (1, b"file\n"), seen
        if os.geteuid() == 0:
            assert session.run(["mv", "/tmp/file", "/tmp/other"], timeout=60).status != 0
    assert shared.read_text() == "host\nguest\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beside", "shared"]


def test_a_single_file_cannot_be_shared_for_writing_by_libvirt(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not a single file"):
        Sandbox().on("qemu:///session").with_bind("/tmp/x", str(tmp_path / "file"), writable=True).dry_run()


def test_overlay_is_thrown_away(sandbox: Sandbox) -> None:
    machine = "qemu" in sandbox.definition.backend or "uml" in sandbox.definition.backend
    if os.geteuid() and machine:
        sandbox = sandbox.with_user("root")  # in a machine of their own anybody may be
    with sandbox.with_overlay() as session:
        result = session.run(
            ["sh", "-c", "echo x > /etc/virtscope-x && rm /etc/passwd && cat /etc/virtscope-x"]
        )
    assert (result.status, result.stdout) == (0, b"x\n"), result
    assert not Path("/etc/virtscope-x").exists()
    assert Path("/etc/passwd").exists()


def test_mount_where_the_host_has_nothing(sandbox: Sandbox) -> None:
    with sandbox.with_ram("/a-new-place", "1M") as session:
        assert session.run(["touch", "/a-new-place/x"], timeout=30).ok


def test_another_user(sandbox: Sandbox) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with sandbox.with_user("nobody") as session:
        assert session.run(["id", "-un"], timeout=30).stdout == b"nobody\n"
        assert session.run(["cat", "/etc/shadow"], timeout=30).status != 0
        again = session.run(["sh", "-c", "cat /dev/stdin > /dev/stderr"], input=b"again", timeout=30)
        assert (again.status, again.stderr) == (0, b"again")


def test_environment_folder_and_host_name(sandbox: Sandbox) -> None:
    box = sandbox.with_environment({"COLOUR": "blue"}).with_options(hostname="cell")
    with box as session:
        result = session.run(["sh", "-c", "echo $COLOUR; pwd; uname -n"], cwd="/usr/bin", timeout=30)
    assert result.stdout == b"blue\n/usr/bin\ncell\n"


def test_timeout_kills(sandbox: Sandbox) -> None:
    with sandbox as session, pytest.raises(SandboxTimeout):
        session.run(["sleep", "100"], timeout=0.5)


def machine_processes(session: Session) -> list[int]:
    """The host's processes that are this sandbox's machine; none for a container."""
    machine = session.machine
    if isinstance(machine, process.Group):
        return [one.pid for one in machine.processes]
    if isinstance(machine, process.HostProcess):
        return [machine.pid, *_descendants(machine.pid)]
    assert isinstance(machine, libvirt_backend.DomainMachine)
    name = machine.name.encode()
    lines = {int(path.parent.name): _command_line(path) for path in Path("/proc").glob("[0-9]*/cmdline")}
    return [pid for pid, line in lines.items() if b"qemu-system" in line and b"guest=" + name in line]


def _command_line(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def allowed(pid: int, what: str) -> set[str]:
    """What the kernel says of all threads of a process."""
    texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return {line.split()[1] for text in texts for line in text.splitlines() if line.startswith(what + ":")}


def test_processors_and_nodes(sandbox: Sandbox) -> None:
    last = str(max(os.sched_getaffinity(0)))
    box = sandbox.with_limits(pin_cpus=last, numa_nodes="0")
    with box as session:
        inside = session.run(
            [
                "sh",
                "-c",
                "grep Cpus_allowed_list: /proc/self/status; cat /sys/devices/system/node/online || echo 0",
            ],
            timeout=60,
        )
        pids = machine_processes(session)
        assert [allowed(pid, "Cpus_allowed_list") for pid in pids] == [{last}] * len(pids)
        for pid in pids:
            assert {line.split()[1] for line in Path(f"/proc/{pid}/numa_maps").read_text().splitlines()} <= {
                "default",
                "bind:0",
                "prefer:0",
            }
    mask, nodes = inside.stdout.decode().split()[1:]
    assert nodes == "0"
    assert pids or mask == last


@pytest.mark.parametrize("name", MACHINES)
def test_processors_without_control_groups(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_files: object) -> None:
        raise AccessDenied("no control groups for this user")

    monkeypatch.setattr(cgroups, "_make", refuse)
    last = str(max(os.sched_getaffinity(0)))
    with usable(name).with_limits(pin_cpus=last, numa_nodes="0") as session:
        for pid in machine_processes(session):
            assert allowed(pid, "Cpus_allowed_list") == {last}
            maps = Path(f"/proc/{pid}/numa_maps").read_text()
            assert {line.split()[1] for line in maps.splitlines()} == {"bind:0"}
    with pytest.raises(AccessDenied):
        usable("namespaces:").with_limits(pin_cpus=last).start()


@pytest.mark.parametrize("text", ["4095", "x", "0-", "1-0", "0,,0"])
def test_processors_that_are_not_there(text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Sandbox().with_limits(pin_cpus=text).start()
    with pytest.raises(UsageError, match=text):
        Sandbox().with_limits(numa_nodes=text).start()


def test_what_is_not_there_is_said_before_the_start(sandbox: Sandbox) -> None:
    with pytest.raises(UsageError, match="no/such"):
        sandbox.with_bind("/tmp/x", "/no/such").start()


def test_a_guest_that_dies_is_reported(sandbox: Sandbox) -> None:
    session = sandbox.start()
    run = session.start(["sleep", "100"])
    session.pump(lambda: run.started, time.monotonic() + 30)
    session.machine.kill()
    try:
        # a container's first process may live long enough to tell how the command died
        told = session.wait(run, time.monotonic() + 10).signal is not None
    except SandboxTimeout:
        told = False
    except SandboxError:
        told = True
    assert told
    session.close()


@pytest.mark.parametrize("name", MACHINES)
def test_it_is_a_machine_of_its_own(name: str) -> None:
    with usable(name) as session:
        inside = session.run(["cat", "/proc/sys/kernel/random/boot_id"], timeout=30).stdout
        processor = session.run(["cat", "/proc/cpuinfo"], timeout=30).stdout
    assert inside.decode() != Path("/proc/sys/kernel/random/boot_id").read_text()
    assert b"QEMU" in processor or b"User Mode Linux" in processor


@pytest.mark.parametrize("name", MACHINES)
def test_image_mounted_by_the_guest(name: str, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", image, "16M"], check=True)
    with usable(name).with_image("/tmp/disk", str(image), writable=True) as session:
        result = session.run(
            ["sh", "-c", "echo kept > /tmp/disk/file && df -T /tmp/disk | tail -1"], timeout=60
        )
        assert b"ext4" in result.stdout, result
    listing = subprocess.run(["debugfs", "-R", "cat file", image], capture_output=True, check=True)
    assert listing.stdout == b"kept\n"
    assert subprocess.run(["e2fsck", "-fn", image], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", MACHINES)
def test_read_only_disk_cannot_be_written(name: str, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    device = "/dev/ubda" if name == "uml:" else "/dev/vda"
    with usable(name).with_disk(str(image)) as session:
        assert session.run(["sh", "-c", f"echo bad > {device}"], timeout=60).status != 0
        assert session.run(["blockdev", "--getsize64", device], timeout=60).stdout == b"1048576\n"
    assert image.read_bytes() == bytes(1 << 20)


@pytest.mark.parametrize("name", ["qemu:", "uml:", "namespaces:", "lxc:///system"])
def test_overlay_that_is_kept(name: str, daemon: Callable[[str], str], tmp_path: Path) -> None:
    box = chosen(name, daemon).with_overlay(str(tmp_path))
    change = "echo kept > /etc/virtscope-kept && rm /etc/hostname"
    with box as session:
        assert session.run(["sh", "-c", change], timeout=60).ok
        if name == "namespaces:":
            with pytest.raises(SandboxError, match="another sandbox"):
                box.start()
    with box as session:
        assert session.run(["cat", "/etc/virtscope-kept"], timeout=60).stdout == b"kept\n"
        assert session.run(["cat", "/etc/hostname"], timeout=60).status == 1
    assert not Path("/etc/virtscope-kept").exists()
    assert Path("/etc/hostname").exists()
    assert all(entry.stat().st_mode & 0o077 == 0 for entry in tmp_path.iterdir() if entry.is_dir())


BESIDE_MOUNTS = """
from virtscope.sandbox import Sandbox
with Sandbox().on("namespaces:").with_overlay().with_bind("/tmp/shown", "/var/opt/shown") as session:
    script = '''
        echo 1 > /var/opt/new && rm /var/opt/old && echo 2 > /var/lib/virtscope-x && echo 3 > /var/virtscope-x
        cat /var/opt/new /var/lib/virtscope-x /var/virtscope-x && ls -A /var/opt && rm /etc/passwd
        touch /tmp/shown/x 2>/dev/null || touch /tmp/shown/inner/x 2>/dev/null || echo read-only
    '''
    print(session.run(["sh", "-c", script], timeout=30).stdout.decode(), end="")
"""


def test_mounts_of_the_host_under_an_overlay() -> None:
    """Folders with a mount below them can be written to; what is shown read-only is so on any mount."""
    usable("namespaces:")
    if os.geteuid():
        pytest.skip("only root can mount something on the host, for itself alone")
    mounts = """
        mount -t tmpfs -o nosuid,nodev,noexec none /var/opt && mkdir -p /var/opt/shown/inner
        mount -t tmpfs none /var/opt/shown/inner && echo old > /var/opt/old
        mount --bind /etc/hostname /etc/hostname && "$@" && cat /var/opt/old
    """
    words = ["unshare", "-m", "sh", "-ec", mounts, "sh", sys.executable, "-c", BESIDE_MOUNTS]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout == "1\n2\n3\nnew\nshown\nread-only\nold\n", done
    assert not Path("/var/virtscope-x").exists()


@pytest.mark.parametrize("transport", ["9p", "virtiofs"])
def test_both_transports_from_a_cold_boot(transport: str) -> None:
    with usable("qemu:").with_options(transport=transport, snapshot=False) as session:
        assert session.run(["cat", "/etc/hostname"], timeout=60).stdout == Path("/etc/hostname").read_bytes()


def test_resumed_machines_differ(tmp_path: Path) -> None:
    box = usable("qemu:")
    seen = set()
    for _ in range(3):
        with box as session:
            seen.add(session.run(["cat", "/proc/sys/kernel/random/uuid"], timeout=30).stdout)
            now = float(session.run(["date", "+%s.%N"], timeout=30).stdout)
            assert abs(now - time.time()) < 5
    assert len(seen) == 3


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_machine_cannot_write_to_what_others_start_from(snapshot: bool) -> None:
    """Neither through its descriptors nor by opening them once more."""
    with usable("qemu:").with_options(snapshot=snapshot) as session:
        assert isinstance(session.machine, Group)
        descriptors = list(Path(f"/proc/{session.machine.processes[0].pid}/fd").iterdir())
        shared_files = [one for one in descriptors if str(cache.folder()) in os.readlink(one)]
        kinds = {Path(os.readlink(one)).name.partition("-")[0] for one in shared_files}
        assert kinds == {"vmlinux", "initramfs", *(["snapshot", "private_memory"] if snapshot else [])}
        for one in shared_files:
            with pytest.raises(OSError, match="Read-only"):
                os.open(one, os.O_RDWR)
        assert session.run(["true"], timeout=30).ok


def test_what_the_caller_cannot_see_the_machine_does_not_serve() -> None:
    """Even the guest's root, looking under the private folders, does not find the host's."""
    with usable("qemu:").with_user("root") as session:
        result = session.run(
            ["sh", "-c", "umount -l /home && umount -l /root && ls -A /home /root"], timeout=30
        )
    assert result.ok, result
    assert result.stdout.decode().split() == ["/home:", "/root:"]


def test_nothing_is_left_after_kill_minus_nine(sandbox: Sandbox) -> None:
    name = sandbox.definition.backend
    program = f"from virtscope.sandbox import Sandbox\nSandbox().on({name!r}).run(['sleep', '9731'])\n"
    victim = subprocess.Popen([sys.executable, "-c", program])
    try:
        # libvirt's are no children of ours
        deadline = time.monotonic() + (3 if "://" in name else 30)
        while not (children := _descendants(victim.pid)) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.5)
        children |= _descendants(victim.pid)
    finally:
        victim.kill()
        victim.wait()
    deadline = time.monotonic() + 10
    while (alive := {pid for pid in children if _runs(pid)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive


def _descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found |= {int(child)} | _descendants(int(child))
    return found


def _runs(pid: int) -> bool:
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return False
    # a user's libvirt starts when it is needed, and stays for a while
    return rest.split()[0] != "Z" and not name.endswith(("(libvirtd", "(virtlogd"))


@pytest.mark.slow
def test_the_session_of_an_ordinary_user() -> None:
    """All of the above once more, as a user who has nothing but his own libvirt."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    nobody = pwd.getpwnam("nobody")
    if os.geteuid() or python is None or shutil.which("setpriv") is None:
        pytest.skip("only root can become another user, with setpriv and a Python that others may run")
    places = [str(Path(pytest.__file__).parents[1]), *sys.path]
    with tempfile.TemporaryDirectory(prefix="vs-") as folder:
        names = {
            "XDG_RUNTIME_DIR": "run",
            "XDG_CACHE_HOME": "cache",
            "XDG_CONFIG_HOME": "config",
            "HOME": "home",
        }
        places_of_his = {name: os.path.join(folder, place) for name, place in names.items()}
        for place in (folder, *places_of_his.values()):
            os.makedirs(place, mode=0o700, exist_ok=True)
            os.chown(place, nobody.pw_uid, nobody.pw_gid)
        variables = {
            **places_of_his,
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": ":".join(place for place in places if "site-packages" in place or "/src" in place),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        become = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts="]
        chosen_tests = [
            "-m",
            "slow or not slow",
            "-k",
            "session and not ordinary",
            f"--basetemp={folder}/pytest",
        ]
        try:
            done = subprocess.run(
                [*become, *command, *chosen_tests, __file__],
                env=variables,
                capture_output=True,
                text=True,
                cwd=Path(__file__).parents[2],
                check=False,
            )
        finally:
            _end_daemons(variables["HOME"])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout[-3000:]
    assert int(passed[1]) > 20, done.stdout[-3000:]


def _end_daemons(home: str) -> None:
    """End what this user's libvirt started and would leave for two minutes."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"HOME={home}".encode() in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), signal.SIGKILL)
