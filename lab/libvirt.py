"""A private libvirtd with a domain or two, for tests of what goes through libvirt.

It is the privileged daemon and its system driver, with the paths they are built with; but it lives in a mount
namespace where those paths are its own, so the host's libvirt, running or not, is not touched. Clients reach
it by a socket outside: `virsh -c URI`.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from xml.sax.saxutils import escape

from lab.accelerator import accelerator
from lab.agent import Agent, Shell
from lab.cache import LabError, LabUnavailable, program, root, scratch_folder
from lab.guest import kernel_command_line
from lab.initrd import initrd
from lab.kernels import Kernel
from lab.kernels import kernel as find_kernel
from lab.qemu import runs
from lab.userspace import script

# The daemon ends when its standard input does: at the latest when the process that started it dies.
# A tmpfs on the whole of /run, as /run/libvirt need not be there on the host, and must not be made.
# Finding out what QEMU can do takes seconds: that cache is kept from one run to the next.
# libvirt's cgroup code stumbles over a hybrid hierarchy's `unified`.
_DAEMON = r"""
set -e
mount --make-rprivate /
for folder in /run /etc/libvirt /var/lib/libvirt /var/log/libvirt; do
    mount -t tmpfs lab-libvirt $folder
done
mount --bind $CACHE /var/cache/libvirt
if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
cat >/etc/libvirt/qemu.conf <<END
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "file"
END
cat >$FOLDER/libvirtd.conf <<END
unix_sock_dir = "$FOLDER"
auth_unix_rw = "none"
END
libvirtd --config $FOLDER/libvirtd.conf --timeout 0 </dev/null >$FOLDER/libvirtd.log 2>&1 &
daemon=$!
read -r _ || true
for file in /run/libvirt/qemu/*.pid; do
    case $file in
        */driver.pid | */\*.pid) ;;
        *) kill -KILL $(cat $file) || true ;;
    esac
done
# It does not always end when it is asked to; the shell need not tell of that.
exec >/dev/null 2>&1
kill $daemon || true
{ sleep 5; kill -KILL $daemon; } &
wait $daemon || true
kill $! || true
"""


class Domain(Shell):
    """A running transient domain.

    Attributes:
        name: The domain's name.
        pid: Its QEMU's process ID.
        kernel: The kernel it runs.
        console_log: The file with what it wrote to its console.
    """

    def __init__(self, daemon: Libvirt, name: str, kernel: Kernel, pid: int, folder: Path) -> None:
        self.name = name
        self.kernel = kernel
        self.pid = pid
        self.console_log = folder / f"{name}.console"
        self._daemon = daemon

    def last_words(self) -> str:
        """The end of the domain's console."""
        said = self.console_log.read_text(errors="replace") if self.console_log.exists() else ""
        return "\n".join(said.splitlines()[-15:])

    def dump(self, path: Path) -> Path:
        """Writes the domain's memory with `virsh dump --memory-only`; returns the path."""
        self._daemon.virsh("dump", "--memory-only", self.name, str(path))
        return path


class Libvirt:
    """A private libvirtd; a context manager that ends it and its domains.

    Attributes:
        uri: What clients connect to.
    """

    def __init__(self) -> None:
        self._folder = scratch_folder()
        self.uri = f"qemu+unix:///system?socket={self._folder}/libvirt-sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._domains: list[Domain] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def virsh(self, *arguments: str) -> str:
        """Runs virsh on the private daemon; returns its standard output."""
        command = [program("virsh", "libvirt-clients"), "-q", "-c", self.uri, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"virsh {arguments[0]}: {done.stderr.strip()}")
        return done.stdout

    def start(
        self,
        kernel: Kernel | str = "6.1-cloud",
        *,
        name: str = "lab",
        memory_mib: int = 256,
        setup: str | None = None,
        timeout: float = 600,
    ) -> Domain:
        """Boots a transient domain, with kernel and user space as in `lab.Guest`; waits until it is ready.

        Args:
            kernel: A `Kernel` or its lab name.
            name: The domain's name.
            memory_mib: RAM.
            setup: As for `lab.Guest`.
            timeout: Seconds until a domain that is not ready has failed.
        """
        found = find_kernel(kernel) if isinstance(kernel, str) else kernel
        deadline = time.monotonic() + timeout
        description = self._folder / f"{name}.xml"
        description.write_text(self._xml(found, name, memory_mib, script() if setup is None else setup))
        self.virsh("create", str(description))
        domain = Domain(self, name, found, self._pid(name), self._folder)
        self._domains.append(domain)
        port = socket.socket(socket.AF_UNIX)
        port.connect(f"{self._folder}/{name}.agent")
        domain.agent = Agent(port)
        domain.wait_agent(deadline)
        return domain

    def close(self) -> None:
        """Ends the domains and the daemon; may be called again."""
        for domain in self._domains:
            if domain.agent:
                domain.agent.close()
        if self._process and self._process.stdin:
            self._process.stdin.close()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        deadline = time.monotonic() + 10
        for domain in self._domains:
            while runs(domain.pid) and time.monotonic() < deadline:
                time.sleep(0.02)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        program("libvirtd", "libvirt-daemon-system")
        if os.geteuid():
            raise LabUnavailable("a private libvirtd takes root (it lives in a mount namespace)")
        cache = root() / "libvirt"
        cache.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [program("unshare", "util-linux"), "--mount", "sh", "-c", _DAEMON],
            stdin=subprocess.PIPE,
            env={"FOLDER": str(self._folder), "CACHE": str(cache), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            # A Ctrl-C is for us: the daemon ends through its standard input.
            start_new_session=True,
        )
        deadline = time.monotonic() + 180
        while True:
            try:
                self.virsh("uri")
                return
            except LabError as error:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    log = self._folder / "libvirtd.log"
                    said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
                    raise LabError(f"the private libvirtd did not start ({error}): {said}") from None
                time.sleep(0.1)

    def _pid(self, name: str) -> int:
        """The PID libvirt keeps in its run directory, which is in the daemon's mount namespace."""
        assert self._process is not None
        return int(Path(f"/proc/{self._process.pid}/root/run/libvirt/qemu/{name}.pid").read_text())

    def _xml(self, kernel: Kernel, name: str, memory_mib: int, setup: str) -> str:
        accel = accelerator(kernel)
        append = kernel_command_line(accel)
        return f"""
<domain type='{"kvm" if accel == "kvm" else "qemu"}'>
  <name>{escape(name)}</name>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>1</vcpu>
  <cpu mode='{"host-passthrough" if accel == "kvm" else "maximum"}'/>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel.vmlinuz}</kernel>
    <initrd>{initrd(kernel, setup)}</initrd>
    <cmdline>{escape(append)}</cmdline>
  </os>
  <features><acpi/></features>
  <on_reboot>destroy</on_reboot>
  <devices>
    <emulator>{program("qemu-system-x86_64", "qemu-system-x86")}</emulator>
    <interface type='user'><model type='virtio'/></interface>
    <serial type='file'><source path='{self._folder}/{name}.console'/></serial>
    <channel type='unix'>
      <source mode='bind' path='{self._folder}/{name}.agent'/>
      <target type='virtio' name='lab.agent'/>
    </channel>
  </devices>
</domain>
"""
