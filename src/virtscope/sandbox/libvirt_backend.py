"""The libvirt back ends: containers of the LXC driver, machines of the QEMU driver (session and system).

The guest side is the same init as everywhere. A container gets its end of the channel as an open file; a
machine through a virtio port whose socket libvirt makes. The domain is destroyed when our connection ends,
even if we are killed. Entry points: `domain_xml`, `start`.
"""

from __future__ import annotations

import functools
import os
import socket
import time

from virtscope.errors import GuestError, SandboxError, UsageError
from virtscope.host import libvirt_domains
from virtscope.sandbox import compiler, plan, runtime
from virtscope.sandbox.definition import Definition
from virtscope.sandbox.session import Session

BOOT_PATIENCE = 90.0
SHARED_CACHE = "/var/cache/virtscope/sandbox"
# A container needs nothing of what makes a machine ready: that is imported where it is used.


class DomainMachine:
    """A libvirt domain as a session's machine."""

    def __init__(
        self, name: str, domain: libvirt_domains.TransientDomain, *, holds_images: bool = False
    ) -> None:
        self.name = name
        self._domain = domain
        self._holds_images = holds_images
        self._gone = False

    def poll(self) -> str | None:
        """None while it runs, else one sentence about its end."""
        if not self._gone and self._domain.is_running():
            return None
        return "the libvirt domain ended"

    def kill(self, *, said_goodbye: bool = False) -> None:
        """Destroy it; one that has ended by itself is left to libvirt, which is slow to take note."""
        if not self._gone:
            self._gone = True
            if said_goodbye and not self._holds_images:
                self._domain.leave()
            else:
                self._domain.destroy()


def is_container(uri: str) -> bool:
    """Whether this connection is the LXC driver's."""
    return uri.startswith("lxc")


def examine(uri: str) -> str:
    """Try to connect.

    Raises:
        VirtscopeError: it does not work, and why.
    """
    kind = libvirt_domains.answers(uri)
    if not is_container(uri):
        from virtscope.sandbox import kernels

        kernel = kernels.choose()
        return f"{kind}, kernel {kernel.release}"
    compiler.guest_init()
    return kind


def domain_xml(
    definition: Definition,
    name: str = "virtscope-sandbox",
    channel: str = "CHANNEL",
    router: int | None = None,
) -> str:
    """The domain's XML.

    Args:
        definition: the sandbox.
        name: the domain's name.
        channel: the path of the socket of a machine's virtio port.
        router: a process in the network namespace that a container is to be in.

    Raises:
        UsageError: it was asked for something this driver does not do here.
    """
    if is_container(definition.backend):
        return _container_xml(definition, name, router)
    return _machine_xml(definition, name, channel)


def _attribute(text: str) -> str:
    """A value of an XML attribute, in quotes."""
    # the standard library's function comes with all of its HTTP client
    for character, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&apos;"), ("\n", "&#10;")):
        text = text.replace(character, name)
    return f"'{text}'"


def _limits(definition: Definition, default_memory: int) -> str:
    limits = definition.limits
    memory = (limits.memory or default_memory) >> 10
    pinned = f" cpuset={_attribute(limits.pin_cpus)}" if limits.pin_cpus else ""
    pieces = [f"<memory unit='KiB'>{memory}</memory>", f"<vcpu{pinned}>{limits.cpus}</vcpu>"]
    if limits.cpu_shares:
        pieces.append(f"<cputune><shares>{limits.cpu_shares}</shares></cputune>")
    if limits.numa_nodes:
        pieces.append(f"<numatune><memory mode='strict' nodeset={_attribute(limits.numa_nodes)}/></numatune>")
    return "\n  ".join(pieces)


def _interface(definition: Definition, address: str = "") -> str:
    network, limits = definition.network, definition.limits
    rate = ""
    if limits.net_rate:
        average = max(1, limits.net_rate >> 10)
        rate = f"<bandwidth><inbound average='{average}'/><outbound average='{average}'/></bandwidth>"
    if network.kind == "none":
        return ""
    model = "" if is_container(definition.backend) else "<model type='virtio'/>"
    sources = {
        "bridge": f"<interface type='bridge'><source bridge={_attribute(network.name)}/>",
        "source": f"<interface type='network'><source network={_attribute(network.name)}/>",
        "user": "<interface type='user'>",
    }
    if network.kind not in sources:
        raise UsageError(f"this libvirt driver has no network {network.kind!r}")
    return f"{sources[network.kind]}{model}{rate}{address}</interface>"


def _container_xml(definition: Definition, name: str, router: int | None) -> str:
    if definition.disks or any(mount.kind == "host-image" for mount in definition.mounts):
        raise UsageError("disks and host-image mounts need a kernel of their own: use qemu: or uml:")
    if definition.display is not None:
        raise UsageError("a container has no display")
    shared = definition.network.kind == "user"
    interface = "" if shared else _interface(definition)
    network = "" if interface or shared else "<privnet/>"
    # the network namespace that the router made, by a process in it
    joined = f"<lxc:namespace><lxc:sharenet type='pid' value='{router or 0}'/></lxc:namespace>"
    return f"""<domain type='lxc' xmlns:lxc='http://libvirt.org/schemas/domain/lxc/1.0'>
  <name>{name}</name>
  {_limits(definition, 512 << 20)}
  <os>
    <type>exe</type>
    <init>{compiler.guest_init()}</init><initarg>container</initarg><initarg>3</initarg>
  </os>
  <features>{network}</features>
  <devices>
    <filesystem type='mount' accessmode='passthrough'><source dir='/'/><target dir='/'/></filesystem>
    {interface}
    <console type='pty'/>
  </devices>
  {joined if shared else ""}
</domain>
"""


def _machine_xml(definition: Definition, name: str, channel: str) -> str:
    if definition.display is not None:
        raise UsageError("--desktop works with the qemu: back end only")
    from virtscope.sandbox import initramfs, kernels, qemu

    kernel = kernels.choose(definition.kernel, transports=("9p",))
    form = qemu.shape(definition, kernel)
    boot = initramfs.prepare(kernel, form.features)
    files = [str(path) for path in (boot.kernel, boot.initramfs)]
    if definition.backend.startswith("qemu") and "/system" in definition.backend:
        files = [_shared(path) for path in files]
    address = "<address type='virtio-mmio'/>" if form.machine == "microvm" else ""
    shares = plan.exported(definition)
    filesystems = "\n    ".join(
        f"<filesystem type='mount' accessmode='squash' multidevs='remap'><source dir={_attribute(path)}/>"
        f"<target dir='{tag}'/>{'<readonly/>' if read_only else ''}{address}</filesystem>"
        for tag, path, read_only in shares
    )
    tune = "".join(
        f"<{key}>{value}</{key}>"
        for key, value in (
            ("read_bytes_sec", definition.limits.io_read),
            ("write_bytes_sec", definition.limits.io_write),
        )
        if value
    )
    tuning = f"<iotune>{tune}</iotune>" if tune else ""
    disks = "\n    ".join(
        f"<disk type='file' device='disk'><driver name='qemu' type={_attribute(disk.format)}/>"
        f"<source file={_attribute(os.path.realpath(disk.path))}/>"
        f"<target dev='vd{chr(ord('a') + number)}' bus='virtio'/><serial>{disk.serial}</serial>"
        f"{'<readonly/>' if disk.read_only else ''}{tuning}{address}</disk>"
        for number, disk in enumerate(qemu.disks(definition))
    )
    kind = "kvm" if form.accelerator == "kvm" else "qemu"
    return f"""<domain type='{kind}'>
  <name>{name}</name>
  {_limits(definition, qemu.DEFAULT_MEMORY)}
  <os>
    <type arch='x86_64' machine='{form.machine}'>hvm</type>
    <kernel>{files[0]}</kernel>
    <initrd>{files[1]}</initrd>
    <cmdline>{qemu.kernel_arguments(definition)}</cmdline>
  </os>
  <features><acpi/></features>
  <on_reboot>destroy</on_reboot>
  <devices>
    <emulator>{qemu.binary()}</emulator>
    {filesystems}
    {disks}
    {_interface(definition, address)}
    <controller type='usb' model='none'/>
    <controller type='virtio-serial' index='0'>{address}</controller>
    <channel type='unix'>
      <source mode='bind' path={_attribute(channel)}/>
      <target type='virtio' name='virtscope'/>
    </channel>
    <memballoon model='none'/>
  </devices>
</domain>
"""


def _shared(path: str) -> str:
    """A copy of a cached file where libvirt's QEMU user can read it."""
    copy = os.path.join(SHARED_CACHE, os.path.basename(path))
    if not os.path.exists(copy):
        import shutil

        try:
            os.makedirs(SHARED_CACHE, exist_ok=True)
            temporary = os.path.join(SHARED_CACHE, f".{os.path.basename(path)}.{os.getpid()}")
            shutil.copyfile(path, temporary)
            os.chmod(temporary, 0o644)
            os.rename(temporary, copy)
        except OSError as error:
            raise SandboxError(
                f"{copy}: {error.strerror}; the system's libvirt needs the kernel there"
            ) from None
    return copy


def start(definition: Definition, router: int | None = None) -> tuple[Session, plan.Base]:
    """Create the domain and return its session, init waiting to be told what to set up.

    Args:
        definition: the sandbox.
        router: a process in the network namespace that a container is to be in.

    Raises:
        SandboxError: libvirt or the guest did not start it.
    """
    name = f"virtscope-{runtime.own_name()}"
    if is_container(definition.backend):
        folder = definition.overlay_directory
        held = []
        if folder:
            from virtscope.sandbox import overlay

            held.append(overlay.take(folder, definition.who()))
        ours, theirs = socket.socketpair()
        try:
            xml = domain_xml(definition, name, router=router)
            domain = _create(definition.backend, xml, [theirs.fileno()])
        except BaseException:
            for fd in (ours.detach(), *held):
                os.close(fd)
            raise
        finally:
            theirs.close()
        session = Session(ours, DomainMachine(name, domain))
        session.on_close += [functools.partial(os.close, fd) for fd in held]
        base = plan.Base(machine=False, transport="bind")
    else:
        from virtscope.sandbox import qemu

        qemu.prepare_overlay(definition)
        folder = runtime.make_folder()
        try:
            path = f"{folder}/channel"
            domain = _create(definition.backend, domain_xml(definition, name, path))
            ours = _connect(path)
        except BaseException:
            runtime.remove_folder(folder)
            raise
        session = Session(ours, DomainMachine(name, domain, holds_images=bool(qemu.disks(definition))))
        session.on_close.append(lambda: runtime.remove_folder(folder))
        base = plan.Base(machine=True, transport="9p")
    try:
        session.wait_ready(time.monotonic() + BOOT_PATIENCE)
    except SandboxError:
        session.abandon()
        raise
    return session, base


def _create(uri: str, xml: str, files: tuple[int, ...] | list[int] = ()) -> libvirt_domains.TransientDomain:
    try:
        return libvirt_domains.TransientDomain(uri, xml, files)
    except GuestError as error:
        hint = ""
        if "cgroup/unified" in str(error):
            hint = "; libvirt's containers do not start on a host that mixes cgroups v1 and v2"
        raise SandboxError(f"libvirt could not start the sandbox: {error}{hint}") from None


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    deadline = time.monotonic() + 10
    while True:
        try:
            connection.connect(path)
            return connection
        except OSError as error:
            if time.monotonic() > deadline:
                connection.close()
                raise SandboxError(
                    f"the sandbox's channel {path} cannot be reached: {error.strerror}"
                ) from None
            time.sleep(0.005)
