"""How long a sandbox takes for /bin/false, beside other ways to confine a program; its streams; its files.

Every round runs each candidate once, so that the host's load falls on all; processor time is beside the
wall's, as it says more on a busy machine. Peers are used if they are installed: unshare, bwrap, guestfish (an
appliance that does nothing) and virtme-ng; the last two once, as they take a minute under emulation. Run as
root for the libvirt container.

Progress goes to standard error. Everything started here dies with this process, however that ends; a folder
that a killed run left is removed by the next one. BENCH_ROUNDS (7), BENCH_LIMIT (seconds for one command,
180), BENCH_FILES (of /usr/share, 2000) and BENCH_ONLY (of "starts streams files") change what is done.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from virtscope.sandbox import compiler, kernels, runtime

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "7"))
LIMIT = float(os.environ.get("BENCH_LIMIT", "180"))
FILES = int(os.environ.get("BENCH_FILES", "2000"))
ONLY = os.environ.get("BENCH_ONLY", "starts streams files").split()
SANDBOX = [sys.executable, "-c", "import sys; from virtscope.cli.sandbox import main; sys.exit(main())", "-q"]
MEGABYTES = 100


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to run /bin/false.

    Attributes:
        name: what the table calls it.
        argv: the command line.
        once: it is so slow that it is run once.
        environment: variables added to ours.
    """

    name: str
    argv: Sequence[str]
    once: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


def _bound(argv: Sequence[str], *, alone: bool = False) -> list[str]:
    """The command line, its process bound to our life; `alone`, with all that it starts."""
    options = [f"parent={os.getpid()}", *(["processes=own"] if alone else [])]
    return [compiler.guest_init(), "launch", *options, "--", *argv]


def _say(text: str) -> None:
    print(f"sandbox: {text}", file=sys.stderr, flush=True)


def _run(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    given: int = subprocess.DEVNULL,
    alone: bool = False,
) -> tuple[float, float] | None:
    """Wall and processor seconds of a command; None if it took longer than LIMIT, and was killed."""
    began = time.perf_counter()
    variables = os.environ | (environment or {})
    # Python may keep what it compiled, as an installed program does.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.Popen(
        _bound(argv, alone=alone),
        stdin=given,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=variables,
    )
    old = signal.signal(signal.SIGALRM, lambda *_: process.send_signal(signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode == -signal.SIGKILL:
        return None
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime


# -- starts


def _candidates(libvirt: str | None) -> Iterator[Candidate]:
    if shutil.which("unshare"):
        yield Candidate("unshare, all namespaces", ["unshare", "-Urmpinuf", "--mount-proc", "/bin/false"])
    if shutil.which("bwrap"):
        confined = ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "--dev", "/dev", "/bin/false"]
        yield Candidate("bubblewrap", confined)
    yield Candidate("python -c pass (for scale)", [sys.executable, "-c", "raise SystemExit(1)"])
    yield Candidate("virt-sandbox -c namespaces:", [*SANDBOX, "-c", "namespaces:", "/bin/false"])
    if libvirt:
        yield Candidate("virt-sandbox -c lxc:///system", [*SANDBOX, "-c", libvirt, "/bin/false"])
    if shutil.which("linux.uml"):
        yield Candidate("virt-sandbox -c uml:", [*SANDBOX, "-c", "uml:", "/bin/false"])
    yield Candidate("virt-sandbox -c qemu: (resumed)", [*SANDBOX, "--no-pool", "/bin/false"])
    yield Candidate("virt-sandbox -c qemu:, waiting machine", [*SANDBOX, "--memory", "192M", "/bin/false"])
    yield Candidate("virt-sandbox -c qemu: --no-snapshot, 9p", [*SANDBOX, "--no-snapshot", "/bin/false"])
    boot = [*SANDBOX, "--no-snapshot", "--transport", "virtiofs"]
    yield Candidate("the same, virtiofs", [*boot, "/bin/false"])
    if cloud := next((one.release for one in kernels.installed() if "cloud" in one.release), None):
        yield Candidate("the same, the distribution's cloud kernel", [*boot, "--kernel", cloud, "/bin/false"])
    yield from _slow_peers()


def _slow_peers() -> Iterator[Candidate]:
    if shutil.which("guestfish"):
        with contextlib.suppress(RuntimeError):
            from lab.kernels import kernel

            found = kernel("6.1")
            environment = {
                "LIBGUESTFS_BACKEND": "direct",
                "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
                "SUPERMIN_KERNEL": str(found.vmlinuz),
                "SUPERMIN_KERNEL_VERSION": found.release,
                "SUPERMIN_MODULES": str(found.modules_dir),
            }
            yield Candidate(
                "guestfish -a /dev/null run", ["guestfish", "-a", "/dev/null", "run"], True, environment
            )
    program = shutil.which("vng")
    kernel_file = next((str(one.image) for one in kernels.installed() if "cloud" not in one.release), None)
    if program and kernel_file:
        options = ["-r", kernel_file, "--disable-kvm", "--memory", "256M", "--cpus", "1"]
        yield Candidate("virtme-ng", [program, *options, "--", "/bin/false"], True)


def _starts(libvirt: str | None, stack: contextlib.ExitStack) -> None:
    pool = subprocess.Popen(
        _bound([*SANDBOX, "--memory", "192M", "--pool", "2"]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    stack.callback(pool.wait)
    stack.callback(pool.terminate)
    candidates = list(_candidates(libvirt))
    samples: dict[str, list[tuple[float, float]]] = {one.name: [] for one in candidates}
    for number in range(ROUNDS + 1):
        _say(f"starts, round {number} of {ROUNDS}" if number else "starts, a round that does not count")
        for one in candidates:
            if one.once and number != 1:
                continue
            if one.once:
                _say(one.name)
            if "waiting" in one.name:
                time.sleep(1.5)  # the pool fills up again
            # what a peer starts does not always die with it; ours does
            took = _run(one.argv, environment=one.environment, alone=one.once)
            if number and took is not None:
                samples[one.name].append(took)
    print(f"/bin/false, whole process, {ROUNDS} rounds, load {os.getloadavg()[0]:.1f}\n")
    print("| how | median s | least s | processor s |\n|---|---|---|---|")
    for name, times in samples.items():
        if not times:
            print(f"| {name} | > {LIMIT:.0f} | | |")
            continue
        walls = [wall for wall, _ in times]
        used = statistics.median(cpu for _, cpu in times)
        print(f"| {name} | {statistics.median(walls):.3f} | {min(walls):.3f} | {used:.2f} |", flush=True)


# -- streams


# In a process of its own, so that it ends with what it started if it takes too long.
_CARRY = """
import os, sys, time
from virtscope.sandbox import Sandbox
backend, source, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
nowhere = os.open(os.devnull, os.O_WRONLY)
with Sandbox().on(backend) as session:
    for argv, given in (
        (["sh", "-c", "wc -c"], source),
        (["head", "-c", str(size), "/dev/zero"], os.devnull),
        (["cat"], source),
    ):
        stdin = os.open(given, os.O_RDONLY)
        began = time.monotonic()
        session.wait(session.start(argv, stdin=stdin, stdout=nowhere))
        print(f"{size / (time.monotonic() - began) / 2**20:.0f}", end=" ", flush=True)
"""


def _streams(libvirt: str | None, folder: str) -> None:
    source = f"{folder}/stream"
    # the private daemon has a /run of its own
    environment = os.environ | {"XDG_RUNTIME_DIR": folder}
    block = os.urandom(1 << 20)
    with open(source, "wb") as stream:
        for _ in range(MEGABYTES):
            stream.write(block)
    backends = {"namespaces:": "namespaces:", "uml:": "uml:", "qemu:": "qemu:"}
    if libvirt:
        backends |= {"lxc:///system": libvirt, "qemu:///system": libvirt.replace("lxc", "qemu", 1)}
    print(f"\n{MEGABYTES} MB, load {os.getloadavg()[0]:.1f}\n")
    print("| back end | in MB/s | out MB/s | both ways MB/s |\n|---|---|---|---|")
    for name, backend in backends.items():
        _say(f"streams, {name}")
        argv = [sys.executable, "-c", _CARRY, backend, source, str(MEGABYTES << 20)]
        try:
            done = subprocess.run(
                _bound(argv),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=environment,
                timeout=LIMIT,
                check=False,
            )
            said = done.stdout
        except subprocess.TimeoutExpired as late:
            said = late.stdout or b""
        cells = [*said.decode().split(), "-", "-", "-"][:3]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    os.unlink(source)


# -- files


def _tree(folder: str) -> None:
    for number in range(10_000):
        place = f"{folder}/d{number // 100}"
        os.makedirs(place, exist_ok=True)
        with open(f"{place}/f{number}", "w", encoding="ascii") as stream:
            stream.write(f"{number}\n" * 20)
    if shutil.which("git"):
        setup = "git init -q && git add -A && git -c user.name=x -c user.email=x@x commit -qm x"
        subprocess.run(["sh", "-c", setup], cwd=folder, check=False, capture_output=True)


def _jobs(folder: str, listing: str) -> Iterator[tuple[str, str]]:
    yield "find, 10,000 files", f"find {folder} -type f -printf '%s\\n' | wc -l"
    yield "tar of them", f"tar cf - {folder} 2>/dev/null | wc -c"
    if shutil.which("git"):
        options = "-c safe.directory='*' --no-optional-locks"
        yield "git status of them", f"cd {folder} && git {options} status -s | wc -l"
    yield f"tar of {FILES:,} files of /usr/share", f"tar cf - -C / -T {listing} | wc -c"


def _files(scratch: str) -> None:
    _say("files, making 10,000")
    folder, listing = f"{scratch}/tree", f"{scratch}/listing"
    os.mkdir(folder)
    _tree(folder)
    found = sorted(str(path) for path in Path("/usr/share").rglob("*") if path.is_file())
    # evenly spread over all of them
    chosen = found[:: max(1, len(found) // FILES)][:FILES]
    Path(listing).write_text("".join(f"{path[1:]}\n" for path in chosen), encoding="utf-8")
    ways = {"9p": "--transport 9p", "virtiofs": "--transport virtiofs", "uml:": "-c uml: --memory 256M"}
    print(f"\nTimes of the host, and as multiples of it, load {os.getloadavg()[0]:.1f}\n")
    print(f"| job | host s | {' | '.join(ways)} |\n|---|---|" + "---|" * len(ways))
    for name, job in _jobs(folder, listing):
        host = min(took[0] for took in (_run(["sh", "-c", job]) for _ in range(3)) if took)
        cells = []
        for place, way in ways.items():
            _say(f"files, {name}, {place}")
            took = _inside(way.split(), f"host-bind:{scratch}={scratch}", job)
            cells.append(f"> {LIMIT / host:.0f}x" if took is None else f"{took / host:.0f}x")
        print(f"| {name} | {host:.3f} | {' | '.join(cells)} |", flush=True)


def _inside(way: Sequence[str], mount: str, job: str) -> float | None:
    """Seconds of a job in a sandbox that has just been started, by the host's clock."""
    clocked = f"echo; {job} >/dev/null; echo"
    argv = _bound([*SANDBOX, "--no-pool", *way, "--mount", mount, "sh", "-c", clocked])
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    )
    assert process.stdout is not None
    moments: list[float] = []
    try:
        deadline = time.monotonic() + LIMIT
        while len(moments) < 2 and (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([process.stdout], [], [], left)
            if ready:
                if not (said := process.stdout.read(2)):
                    break
                moments += [time.monotonic()] * len(said)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    return moments[1] - moments[0] if len(moments) == 2 else None


PREFIX = "virtscope-bench-sandbox."


def _remove_left_over() -> None:
    for entry in os.scandir(tempfile.gettempdir()):
        name = entry.name.removeprefix(PREFIX)
        if name != entry.name and runtime.is_left_over(name):
            shutil.rmtree(entry.path, ignore_errors=True)


def _terminated(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    """Print the tables."""
    signal.signal(signal.SIGTERM, _terminated)
    _remove_left_over()
    with contextlib.ExitStack() as stack:
        libvirt = None
        if {"starts", "streams"} & set(ONLY):
            with contextlib.suppress(Exception):
                from lab.libvirt import Libvirt

                libvirt = stack.enter_context(Libvirt()).uri.replace("qemu+", "lxc+", 1)
        folder = os.path.join(tempfile.gettempdir(), PREFIX + runtime.own_name())
        os.mkdir(folder, 0o700)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if "starts" in ONLY:
            _starts(libvirt, stack)
        if "streams" in ONLY:
            _streams(libvirt, folder)
        if "files" in ONLY:
            _files(folder)


if __name__ == "__main__":
    main()
