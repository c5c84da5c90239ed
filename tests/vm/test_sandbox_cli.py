"""The commands as a user meets them: streams, status, terminal, leftovers."""

from __future__ import annotations

import os
import pty
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.vm.sandboxes import runs
from virtscope.sandbox import backends

WORKING = {backend.name: backend for backend in backends.available()}
BACKENDS = ("qemu:", "uml:", "namespaces:")
STEP = 1 << 20


def command(module: str, *words: str) -> list[str]:
    program = f"import sys; from virtscope.cli.{module} import main; sys.exit(main())"
    return [sys.executable, "-c", program, *words]


def run(
    *words: str, input: bytes | None = None, module: str = "sandbox"
) -> subprocess.CompletedProcess[bytes]:
    stdin = subprocess.DEVNULL if input is None else None
    return subprocess.run(
        command(module, *words), input=input, stdin=stdin, capture_output=True, timeout=180, check=False
    )


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if not WORKING[name].works:
        pytest.skip(f"hardware: {name} cannot run here: {WORKING[name].note}")
    return name


def test_status_streams_and_input(backend: str) -> None:
    done = run("-q", "-c", backend, "sh", "-c", "cat; echo err >&2; exit 9", input=b"no end of line")
    assert (done.returncode, done.stdout, done.stderr) == (9, b"no end of line", b"err\n")


def test_errors_are_one_sentence(backend: str) -> None:
    done = run("-q", "-c", backend, "no-such-program")
    assert done.returncode == 127
    assert done.stderr == b"virt-sandbox: no-such-program: No such file or directory\n"


def test_sandbox_failure_is_125() -> None:
    done = run("--cwd", "/no/such/folder", "true")
    assert done.returncode == 125
    assert b"folder cannot be entered" in done.stderr


def test_wrong_options_are_2() -> None:
    done = run("--mount", "host-bind:/tmp/x=/no/such/folder", "true")
    assert done.returncode == 2
    assert b"/no/such/folder" in done.stderr


def test_timeout_is_124(backend: str) -> None:
    assert run("-q", "-c", backend, "--timeout", "1", "sleep", "60").returncode == 124


def test_list_of_backends_says_why_not() -> None:
    lines = run("--list-backends").stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == list(WORKING)


def test_signal_is_passed_on(backend: str) -> None:
    script = "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    words = command("sandbox", "-q", "-c", backend, "sh", "-c", script)
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert (rest, process.returncode) == (b"got it\n", 3)


def test_interactive_terminal_is_given_back(backend: str) -> None:
    import termios

    pid, master = pty.fork()
    if pid == 0:
        os.execv(sys.executable, command("sandbox", "-q", "-c", backend, "sh"))
    try:
        before = termios.tcgetattr(master)
        seen = bytearray()

        def expect(text: bytes) -> None:
            deadline = time.monotonic() + 60
            while text not in seen:
                assert time.monotonic() < deadline, bytes(seen)
                try:
                    seen.extend(os.read(master, 4096))
                except OSError:
                    return

        os.write(master, b"echo a$((1+1))b; tty\n")
        expect(b"a2b")
        expect(b"/dev/pts/")
        seen.clear()
        os.write(master, b"sleep 100\n")
        time.sleep(1)
        os.write(master, b"\x03")
        os.write(master, b"echo after$((40+2))\n")
        expect(b"after42")
        os.write(master, b"exit 4\n")
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 4
        assert termios.tcgetattr(master)[:4] == before[:4]
    finally:
        os.close(master)


@pytest.mark.slow
def test_a_hundred_megabytes_each_way(backend: str) -> None:
    """Out of the sandbox and into it, apart, and not one byte lost at the end."""
    size = 100 << 20
    out = subprocess.Popen(
        command("sandbox", "-q", "-c", backend, "head", "-c", str(size), "/dev/zero"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert out.stdout is not None
    got = 0
    while piece := out.stdout.read(STEP):
        got += len(piece)
    assert (out.wait(), got) == (0, size)
    into = subprocess.Popen(
        command("sandbox", "-q", "-c", backend, "wc", "-c"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert into.stdin is not None
    for _ in range(size // STEP):
        into.stdin.write(bytes(STEP))
    answer, _ = into.communicate(timeout=300)
    assert int(answer) == size


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for the names of sockets, which are 108 bytes long at most."""
    with tempfile.TemporaryDirectory(prefix="vs-", dir="/tmp") as folder:
        yield Path(folder)


def test_a_pool_whose_socket_has_no_room_says_so(tmp_path: Path) -> None:
    deep = tmp_path / ("long" * 25)
    deep.mkdir()
    done = subprocess.run(
        command("sandbox", "-q", "--pool", "1"),
        env=os.environ | {"XDG_RUNTIME_DIR": str(deep)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 125
    assert b"the pool cannot listen on" in done.stderr


def test_pool_hands_out_waiting_machines(short_folder: Path) -> None:
    environment = os.environ | {"XDG_RUNTIME_DIR": str(short_folder)}
    pool = subprocess.Popen(
        command("sandbox", "-q", "--pool", "2"),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 60
        while not list(short_folder.glob("*/pool-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(short_folder.glob("*/pool-*"))
        time.sleep(2)
        ids = []
        for _ in range(3):
            done = subprocess.run(
                command("sandbox", "-q", "sh", "-c", "cat /proc/sys/kernel/random/boot_id; exit 3"),
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 3, done
            ids.append(done.stdout)
    finally:
        pool.terminate()
        complaint = pool.communicate(timeout=30)[1]
        assert pool.returncode == 0, complaint
    assert not list(short_folder.glob("*/pool-*"))


def test_rescue_and_run_in_an_image(tmp_path: Path) -> None:
    tree, image = tmp_path / "tree", tmp_path / "disk.img"
    for folder in ("bin", "etc", "proc", "sys", "dev", "tmp", "run"):
        (tree / folder).mkdir(parents=True)
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        pytest.skip("busybox is not installed")
    (tree / "bin/busybox").write_bytes(busybox.read_bytes())
    (tree / "bin/busybox").chmod(0o755)
    (tree / "bin/sh").symlink_to("busybox")
    (tree / "etc/os-release").write_text("NAME=Inside\n")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, image, "64M"], check=True)

    looked = run("-a", str(image), "--", "cat", "/sysroot/etc/os-release", module="rescue")
    assert (looked.returncode, looked.stdout) == (0, b"NAME=Inside\n"), looked
    refused = run("-a", str(image), "--", "sh", "-c", "echo x > /etc/new", module="run_in_image")
    assert refused.returncode != 0
    written = run(
        "-a", str(image), "--rw", "--", "sh", "-c", "echo x > /etc/new; exit 5", module="run_in_image"
    )
    assert written.returncode == 5, written
    shown = subprocess.run(["debugfs", "-R", "cat /etc/new", image], capture_output=True, check=True)
    assert shown.stdout == b"x\n"
    assert subprocess.run(["e2fsck", "-fn", image], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.xdist_group("stress")
def test_two_hundred_starts_and_random_kills_leave_nothing(backend: str, tmp_path: Path) -> None:
    """Ten at a time; a third of them killed with SIGKILL at a random moment."""
    chance = random.Random(42)
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    before = _of_ours(tmp_path)
    mounts = set(Path("/proc/self/mountinfo").read_text().splitlines())
    run("-q", "-c", backend, "true")

    def one(number: int, kill_after: float | None) -> int:
        process = subprocess.Popen(
            command(
                "sandbox", "-q", "-c", backend, "--cpu-shares", "512", "sh", "-c", f"exit {number % 100}"
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        if kill_after is not None:
            threading.Timer(kill_after, process.kill).start()
        return process.wait(300)

    plans = [(number, chance.uniform(0, 1.5) if chance.random() < 0.33 else None) for number in range(200)]
    with ThreadPoolExecutor(10) as pool:
        for (number, killed), status in zip(plans, pool.map(lambda plan: one(*plan), plans), strict=True):
            assert status == number % 100 or (killed is not None and status == -9), (number, killed, status)
    done = subprocess.run(command("sandbox", "--gc"), env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done
    deadline = time.monotonic() + 10
    while (left := _of_ours(tmp_path) - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
    assert not set(Path("/proc/self/mountinfo").read_text().splitlines()) - mounts
    groups = [path for path in Path("/sys/fs/cgroup").rglob("virtscope/*") if path.is_dir()]
    # a group is named by its owner, and other tests' sandboxes may run now
    assert not [path for path in groups if not runs(int(path.name.split("-")[0]))]
    assert not [path for path in tmp_path.rglob("*") if path.name != "virtscope-sandbox"]


def _of_ours(runtime: Path) -> set[str]:
    """Processes of sandboxes with this runtime folder, by their command lines and environments."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
            variables = (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        ours = b"virtscope-init" in words or b"name=virtscope\0" in words
        # User Mode Linux gets an environment of its own
        if state != "Z" and (b"linux.uml" in words or (ours and bytes(runtime) in variables)):
            found.add(folder.name)
    return found


@pytest.mark.slow
def test_services_from_one_template(tmp_path: Path) -> None:
    environment = os.environ | {"XDG_DATA_HOME": str(tmp_path)}
    unit = tmp_path / "counter.service"
    script = "n=$(cat /var/lib/counter/n 2>/dev/null); echo $((n+1)) >/var/lib/counter/n; sleep 1000"
    unit.write_text(
        f"[Service]\nExecStart=/bin/sh -c '{script.replace('$', '$$')}'\nStateDirectory=counter\n"
    )
    unit.write_text(unit.read_text().replace("$$", "$"))

    def service(*words: str) -> str:
        done = subprocess.run(
            command("sandbox_service", *words), env=environment, capture_output=True, timeout=120, check=False
        )
        assert done.returncode == 0, done
        return done.stdout.decode()

    names = ("one", "two")
    service("create", *names, "--unit", str(unit), "--size", "16M")
    for _ in range(2):
        service("start", *names)
        assert [line.split()[1] for line in service("list").splitlines()] == ["running", "running"]
        time.sleep(1)
        service("stop", *names)
    assert "running" not in service("list")
    for name in names:
        image = tmp_path / "virtscope/services" / name / "state0.img"
        kept = subprocess.run(["debugfs", "-R", "cat n", image], capture_output=True, check=True)
        assert kept.stdout == b"2\n"
    service("delete", *names)
    assert service("list") == ""
