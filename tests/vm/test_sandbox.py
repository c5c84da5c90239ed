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
from pathlib import Path

import pytest

from tests.vm.sandboxes import MACHINES, WORKING, descendants, machine_processes, runs, usable
from virtscope.errors import AccessDenied, SandboxError, SandboxTimeout, UsageError
from virtscope.sandbox import Sandbox, cache, cgroups
from virtscope.sandbox.process import Group
from virtscope.sandbox.session import Session


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


def test_nothing_is_left_after_kill_minus_nine(sandbox: Sandbox) -> None:
    name = sandbox.definition.backend
    program = f"from virtscope.sandbox import Sandbox\nSandbox().on({name!r}).run(['sleep', '9731'])\n"
    victim = subprocess.Popen([sys.executable, "-c", program])
    try:
        # libvirt's are no children of ours
        deadline = time.monotonic() + (3 if "://" in name else 30)
        while not (children := descendants(victim.pid)) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.5)
        children |= descendants(victim.pid)
    finally:
        victim.kill()
        victim.wait()
    deadline = time.monotonic() + 10
    while (alive := {pid for pid in children if runs(pid)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive


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
