"""How long a sandbox takes for /bin/false, whole process, beside other ways to confine a program; and files.

Every round runs each candidate once, so that the host's load falls on all. Peers are used if installed:
unshare, bwrap; guestfish (an appliance that does nothing) with BENCH_GUESTFISH=1, as it takes minutes under
emulation. Run as root for the libvirt container.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "7"))
SANDBOX = [sys.executable, "-c", "import sys; from virtscope.cli.sandbox import main; sys.exit(main())", "-q"]


def _candidates(libvirt: str | None) -> Iterator[tuple[str, list[str]]]:
    if shutil.which("unshare"):
        yield "unshare, all namespaces", ["unshare", "-Urmpinuf", "--mount-proc", "/bin/false"]
    if shutil.which("bwrap"):
        yield "bubblewrap", ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "--dev", "/dev", "/bin/false"]
    yield "python -c pass (for scale)", [sys.executable, "-c", "raise SystemExit(1)"]
    yield "virt-sandbox -c namespaces:", [*SANDBOX, "-c", "namespaces:", "/bin/false"]
    if libvirt:
        yield "virt-sandbox -c lxc:///system", [*SANDBOX, "-c", libvirt, "/bin/false"]
    if shutil.which("linux.uml"):
        yield "virt-sandbox -c uml:", [*SANDBOX, "-c", "uml:", "/bin/false"]
    yield "virt-sandbox -c qemu: (resumed)", [*SANDBOX, "--no-pool", "/bin/false"]
    yield "virt-sandbox -c qemu:, waiting machine", [*SANDBOX, "--memory", "192M", "/bin/false"]
    yield "virt-sandbox -c qemu: --no-snapshot, 9p", [*SANDBOX, "--no-snapshot", "/bin/false"]
    yield "the same, virtiofs", [*SANDBOX, "--no-snapshot", "--transport", "virtiofs", "/bin/false"]
    if cloud := _cloud_kernel():
        words = ["--no-snapshot", "--transport", "virtiofs", "--kernel", cloud, "/bin/false"]
        yield "the same, the distribution's cloud kernel", [*SANDBOX, *words]
    if shutil.which("guestfish") and os.environ.get("BENCH_GUESTFISH"):  # minutes, under emulation
        yield "guestfish -a /dev/null run", ["guestfish", "-a", "/dev/null", "run"]


def _cloud_kernel() -> str | None:
    from virtscope.sandbox import kernels

    return next((kernel.release for kernel in kernels.installed() if "cloud" in kernel.release), None)


def _once(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=300)
    return time.perf_counter() - began


def _start() -> None:
    with contextlib.ExitStack() as stack:
        libvirt = None
        with contextlib.suppress(Exception):
            from lab.libvirt import Libvirt

            libvirt = stack.enter_context(Libvirt()).uri.replace("qemu+", "lxc+", 1)
        pool = subprocess.Popen(
            [*SANDBOX, "--memory", "192M", "--pool", "2"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(pool.wait)
        stack.callback(pool.terminate)
        candidates = list(_candidates(libvirt))
        for _, command in candidates:
            _once(command)
        samples: dict[str, list[float]] = {name: [] for name, _ in candidates}
        for _ in range(ROUNDS):
            for name, command in candidates:
                if "waiting" in name:
                    time.sleep(1.5)  # the pool fills up again
                samples[name].append(_once(command))
    print(f"/bin/false, whole process, {ROUNDS} rounds, load {os.getloadavg()[0]:.1f}\n")
    print("| how | median s | least s | of python -c pass |\n|---|---|---|---|")
    scale = statistics.median(samples["python -c pass (for scale)"])
    for name, times in samples.items():
        middle = statistics.median(times)
        print(f"| {name} | {middle:.3f} | {min(times):.3f} | {middle / scale:.1f} |")


def _files() -> None:
    with tempfile.TemporaryDirectory(prefix="virtscope-bench-") as folder:
        for number in range(10_000):
            place = f"{folder}/d{number // 100}"
            os.makedirs(place, exist_ok=True)
            with open(f"{place}/f{number}", "w", encoding="ascii") as stream:
                stream.write(f"{number}\n" * 20)
        jobs = {"find, 10,000 files": f"find {folder} -type f -printf '%s\\n' | wc -l"}
        jobs["tar of them"] = f"tar cf - {folder} 2>/dev/null | wc -c"
        if shutil.which("git"):
            setup = "git init -q && git add -A && git -c user.name=x -c user.email=x@x commit -qm x"
            subprocess.run(["sh", "-c", setup], cwd=folder, check=False, capture_output=True)
            jobs["git status"] = (
                f"cd {folder} && git -c safe.directory='*' --no-optional-locks status -s | wc -l"
            )
        print("\n| job | host s | 9p | virtiofs | uml: | (ratio to the host) |\n|---|---|---|---|---|---|")
        ways = [
            ["--transport", "9p", "--no-snapshot"],
            ["--transport", "virtiofs"],
            ["-c", "uml:", "--memory", "256M"],
        ]
        for name, job in jobs.items():
            host = min(_once(["sh", "-c", job]) for _ in range(3))
            cells = []
            for way in ways:
                bind = ["--mount", f"host-bind:{folder}={folder}"]
                idle = min(_once([*SANDBOX, *way, *bind, "sh", "-c", "true"]) for _ in range(2))
                busy = min(_once([*SANDBOX, *way, *bind, "sh", "-c", job]) for _ in range(2))
                cells.append(f"{(busy - idle) / host:.0f}x")
            print(f"| {name} | {host:.3f} | {' | '.join(cells)} | |")


def main() -> None:
    """Print both tables."""
    _start()
    _files()


if __name__ == "__main__":
    main()
