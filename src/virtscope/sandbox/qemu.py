"""The plain QEMU back end: a microvm whose root is the host's, over 9p or virtiofs. No daemon, no file, no
socket path.

The channel to the guest is a socket pair, kernel and initramfs are passed as open files, QEMU runs as the
calling user behind a seccomp filter in a mount namespace where nothing can be written. Entry points:
`command_line`, `start`.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from virtscope.errors import MissingDependency, SandboxError, UsageError
from virtscope.sandbox import accelerator, initramfs, kernels, plan, process
from virtscope.sandbox.definition import Definition, Disk
from virtscope.sandbox.session import Session

DEFAULT_MEMORY = 256 << 20
BOOT_PATIENCE = 60.0
OVERLAY_SIZE = 8 << 30
FILESYSTEM_DAEMONS = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd")


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides how a machine is built; two sandboxes of one shape can start from one snapshot.

    Args:
        machine: QEMU's machine type.
        accelerator: "kvm" or "tcg".
        transport: how the host's root gets in.
        memory: bytes.
        cpus: how many.
        features: what the guest's kernel must be able to do (kernels.FEATURES).
    """

    machine: str
    accelerator: str
    transport: str
    memory: int
    cpus: int
    features: tuple[str, ...]

    @property
    def bus(self) -> str:
        """The suffix of virtio device names on this machine's bus."""
        return "device" if self.machine == "microvm" else "pci"


def binary() -> str:
    """QEMU's program for this host's architecture.

    Raises:
        MissingDependency: it is not installed, or this architecture is not supported.
    """
    if os.uname().machine != "x86_64":
        raise MissingDependency(
            f"virtual machines of the qemu: back end need an x86-64 host, not {os.uname().machine}"
        )
    found = shutil.which("qemu-system-x86_64")
    if found is None:
        raise MissingDependency("qemu-system-x86_64 is not installed")
    return found


def filesystem_daemon() -> str | None:
    """The virtiofs daemon of this host, if there is one."""
    return shutil.which("virtiofsd") or next((p for p in FILESYSTEM_DAEMONS if os.access(p, os.X_OK)), None)


def shape(definition: Definition, kernel: kernels.Kernel) -> Shape:
    """Decide on the machine for this definition and kernel.

    Raises:
        UsageError: the kernel cannot do what is asked for.
    """
    transport = definition.transport
    if transport == "auto":
        transport = "9p" if kernel.provides("9p") else "virtiofs"
    if transport not in ("9p", "virtiofs") or not kernel.provides(transport):
        raise UsageError(f"kernel {kernel.release} cannot mount the host's root over {transport}")
    machine = definition.machine
    if machine == "auto":
        machine = "pc" if definition.display is not None or not kernel.provides("mmio") else "microvm"
    features = ["mmio" if machine == "microvm" else "pci", "console", transport, "overlay"]
    if disks(definition):
        features += ["disk", "filesystems"]
    if definition.network.kind not in ("none", "host"):
        features += ["net", "ipv6"]
    if definition.display is not None:
        features.append("display")
    choice = definition.accelerator
    return Shape(
        machine,
        accelerator.usable() if choice == "auto" else choice,
        transport,
        definition.limits.memory or DEFAULT_MEMORY,
        definition.limits.cpus,
        tuple(features),
    )


def disks(definition: Definition) -> list[Disk]:
    """All disks of the guest: those asked for, the images to be mounted, the kept overlay."""
    found = [
        replace(disk, serial=disk.serial or f"disk{number}") for number, disk in enumerate(definition.disks)
    ]
    images = [mount for mount in definition.mounts if mount.kind == "host-image"]
    found += [
        Disk(
            image.source, image_format(image.source), not image.writable, plan.image_serial(definition, image)
        )
        for image in images
    ]
    if definition.overlay_directory:
        found.append(Disk(os.path.join(definition.overlay_directory, "overlay.img"), "raw", False, "overlay"))
    return found


def image_format(path: str) -> str:
    """Raw unless the name says otherwise: what is in an image must not decide how it is read."""
    extension = os.path.splitext(path)[1].lower().lstrip(".")
    return extension if extension in ("qcow2", "vmdk", "vdi", "vhdx", "qed") else "raw"


# What the kernel does once and hardly anybody here uses: names for trace events, a self-test; and reading all
# of its type information, for BPF programs that call its functions and for one way of congestion control
# (without it, connections use Reno).
SKIPPED = ("trace_eval_init", "crypto_kdf108_init")
SKIPPED_WITHOUT_NETWORK = (
    "cubictcp_register",
    "bpf_rstat_kfunc_init",
    "kfunc_init",
    "bpf_prog_test_run_init",
    "bpf_tcp_ca_kfunc_init",
    "bpf_key_sig_kfuncs_init",
)


def kernel_arguments(definition: Definition, *, emulated: bool = True) -> str:
    """The kernel's command line; the same for every sandbox of a shape.

    Args:
        definition: the sandbox.
        emulated: whether every instruction of the guest costs many of the host.
    """
    khz = accelerator.tsc_khz()
    words = [
        "quiet",
        "panic=-1",
        "cryptomgr.notests",
        "random.trust_cpu=on",
        "no_timer_check",
        "rcupdate.rcu_expedited=1",
    ]
    if khz:
        # Measured against the emulated timer of a busy host the clock is found unstable and the boot hangs.
        words += [f"tsc_early_khz={khz}", "tsc=reliable", f"lpj={khz * 4}"]
    if emulated:
        # The guest's kernel guards itself less against its own programs: it does not search all of its memory
        # for pages that are both writable and executable, nor clear pages before it uses them.
        words += ["rodata=off", "init_on_alloc=0"]
        skipped = SKIPPED + (SKIPPED_WITHOUT_NETWORK if definition.network.kind == "none" else ())
        words.append(f"initcall_blacklist={','.join(skipped)}")
    if definition.console:
        words.append("console=ttyS0")
    if definition.append:
        words.append(definition.append)
    return " ".join([*words, "--", "vm"])


def command_line(
    definition: Definition,
    form: Shape,
    boot: initramfs.BootFiles,
    *,
    channel: int = 3,
    kernel: str | None = None,
    archive: str | None = None,
    filesystem_sockets: dict[str, int] | None = None,
    monitor: int | None = None,
    memory_file: str | None = None,
    memory_shared: bool = False,
    tap: int = 4,
) -> list[str]:
    """QEMU's arguments.

    Args:
        definition: the sandbox.
        form: its machine.
        boot: kernel and initramfs.
        channel: the descriptor of the socket to the guest's init.
        kernel: a path to use instead of `boot.kernel`.
        archive: a path to use instead of `boot.initramfs`.
        filesystem_sockets: connections to the virtiofs daemons, by tag.
        monitor: the descriptor of a QMP connection.
        memory_file: a file that holds the guest's memory.
        memory_shared: whether what the guest writes goes to that file.
        tap: the descriptor of the tap device of a "user" network.
    """
    bus = form.bus
    machine = "microvm,isa-serial=" + ("on" if definition.console else "off")
    machine = machine if form.machine == "microvm" else form.machine
    args = [binary(), "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-vga", "none"]
    args += ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    if form.transport == "virtiofs" or memory_file:
        if memory_file:
            shared = "on" if memory_shared else "off"
            where = f"memory-backend-file,id=ram,size={form.memory},mem-path={memory_file},share={shared}"
        else:
            where = f"memory-backend-memfd,id=ram,size={form.memory},share=on"
        args += ["-object", where]
        machine += ",memory-backend=ram"
    args += ["-M", machine, "-accel", form.accelerator, "-m", f"{form.memory >> 10}k", "-smp", str(form.cpus)]
    if form.accelerator == "kvm":
        args += ["-cpu", "host"]
    if form.machine == "microvm":
        args += ["-global", "virtio-mmio.force-legacy=false"]
    args += ["-kernel", kernel or str(boot.kernel), "-initrd", archive or str(boot.initramfs)]
    args += ["-append", kernel_arguments(definition, emulated=form.accelerator == "tcg")]
    # Each port costs two queues, which the guest sets up whether they are used or not.
    args += ["-device", f"virtio-serial-{bus},max_ports=2", "-chardev", f"socket,id=channel,fd={channel}"]
    args += ["-device", "virtserialport,chardev=channel,nr=1,name=virtscope"]
    for tag, path, read_only in plan.exported(definition):
        if form.transport == "virtiofs":
            number = (filesystem_sockets or {}).get(tag, 0)
            args += ["-chardev", f"socket,id=fs-{tag},fd={number}"]
            args += ["-device", f"vhost-user-fs-{bus},chardev=fs-{tag},tag={tag}"]
        else:
            escaped = path.replace(",", ",,")
            mode = "on" if read_only else "off"
            options = f"local,id=fs-{tag},path={escaped},security_model=none,readonly={mode},multidevs=remap"
            args += ["-fsdev", options, "-device", f"virtio-9p-{bus},fsdev=fs-{tag},mount_tag={tag}"]
    for number, disk in enumerate(disks(definition)):
        path = os.path.realpath(disk.path).replace(",", ",,")
        readonly = "on" if disk.read_only else "off"
        options = f"file={path},format={disk.format},if=none,id=disk{number},readonly={readonly}"
        args += ["-drive", options + _throttle(definition)]
        args += ["-device", f"virtio-blk-{bus},drive=disk{number},serial={disk.serial}"]
    if definition.network.kind not in ("none", "host"):
        from virtscope.sandbox import network

        args += network.qemu_arguments(definition, bus, tap)
    if definition.console:
        args += ["-chardev", f"file,id=console,path={definition.console}", "-serial", "chardev:console"]
    if monitor is not None:
        args += ["-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control"]
    if definition.display is not None:
        from virtscope.sandbox import screen

        args += screen.qemu_arguments(definition.display, bus)
    return args


def _throttle(definition: Definition) -> str:
    limits = definition.limits
    read = f",throttling.bps-read={limits.io_read}" if limits.io_read else ""
    return read + (f",throttling.bps-write={limits.io_write}" if limits.io_write else "")


def base(definition: Definition) -> plan.Base:
    """How this machine's guest finds the host's root."""
    kernel = kernels.choose(definition.kernel, transports=_transports(definition))
    return plan.Base(machine=True, transport=shape(definition, kernel).transport)


def start(definition: Definition, launch: Sequence[str] = (), taps: Sequence[int] = ()) -> Session:
    """Boot a machine and return its session, init waiting to be told what to set up.

    Args:
        definition: the sandbox.
        launch: options for `launch`.
        taps: the descriptor of the tap device of a "user" network, if there is one.

    Raises:
        SandboxError: QEMU or the guest did not start.
    """
    kernel = kernels.choose(definition.kernel, transports=_transports(definition))
    form = shape(definition, kernel)
    prepare_overlay(definition)
    boot = initramfs.prepare(kernel, form.features)
    if definition.snapshot and snapshot_fits(definition, form):
        from virtscope.sandbox import snapshot

        session = snapshot.resume(definition, form, boot, launch, taps)
        if session is not None:
            return session
    return boot_machine(definition, form, boot, launch=launch, taps=taps)


def prepare_overlay(definition: Definition) -> None:
    """Make the image that keeps an overlay: sparse, ext4, so that a crash costs what a power cut would."""
    folder = definition.overlay_directory
    if folder is None or os.path.exists(os.path.join(folder, "overlay.img")):
        return
    import subprocess

    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".overlay.img.{os.getpid()}")
    command = [
        process.program("mke2fs", "/sbin/mke2fs"),
        "-q",
        "-t",
        "ext4",
        "-E",
        "root_owner=0:0",
        temporary,
    ]
    done = subprocess.run(
        [*command, str(OVERLAY_SIZE >> 10) + "k"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SandboxError(
            f"{folder}: the overlay's filesystem could not be made: {done.stderr.strip()[-200:]}"
        )
    os.rename(temporary, os.path.join(folder, "overlay.img"))


def snapshot_fits(definition: Definition, form: Shape) -> bool:
    """Whether a snapshot can stand for this machine: nothing but the root export and the channel."""
    # A machine of another user would have to be able to write to the file that all machines start from.
    if definition.who().uid != os.geteuid() and os.geteuid() == 0:
        return False
    if definition.limits.numa_nodes:
        return False  # the file's pages are where they were first read
    plain = not disks(definition) and not plan.exports(definition) and definition.display is None
    return (
        plain
        and definition.network.kind in ("none", "user")
        and form.transport == "9p"
        and not definition.console
    )


def _transports(definition: Definition) -> tuple[str, ...]:
    return ("9p", "virtiofs") if definition.transport == "auto" else (definition.transport,)


def confinement(definition: Definition, *, writable: Sequence[str] = ()) -> list[str]:
    """Options for `launch`: the identity QEMU runs under and what it sees of the host."""
    options = []
    who = definition.who()
    if os.geteuid() == 0 and who.uid != 0:
        options.append("user=" + ":".join(str(n) for n in (who.uid, who.gid, *who.groups)))
    if not definition.confine:
        return options
    options.append("confine=1")
    options += [f"hide={place}" for place in plan._private(definition) if place not in ("/tmp", "/var/tmp")]
    for mount in definition.mounts:
        if mount.kind != "host-bind":
            continue
        path = os.path.realpath(mount.source)
        if mount.writable and not os.path.isdir(path):
            options.append(f"lend={plan.exports(definition).index(mount)}:{path}")
        else:
            options.append(("writable=" if mount.writable else "show=") + path)
    options += [f"show={os.path.realpath(file.source)}" for file in definition.includes]
    for disk in disks(definition):
        options.append(("show=" if disk.read_only else "writable=") + os.path.realpath(disk.path))
        options += [f"show={path}" for path in backing_files(disk)]
    options += [f"writable={path}" for path in writable]
    return options


def lent(files: Iterable[tuple[int, str | os.PathLike[str]]]) -> list[str]:
    """Options for `launch`: descriptors of files that later machines start from, and which must not become a
    way to write to them.
    """
    return [f"again={fd}:{os.fspath(path)}" for fd, path in files]


def backing_files(disk: Disk) -> list[str]:
    """The files under an image that QEMU will open as well."""
    if disk.format == "raw":
        return []
    import json
    import subprocess

    tool = process.program("qemu-img")
    command = [tool, "info", "-U", "--output=json", "--backing-chain", "-f", disk.format, disk.path]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        return []
    chain = json.loads(done.stdout)
    return [os.path.realpath(layer["filename"]) for layer in chain[1:33]]


def boot_machine(
    definition: Definition,
    form: Shape,
    boot: initramfs.BootFiles,
    *,
    monitor: socket.socket | None = None,
    memory: int | None = None,
    launch: Sequence[str] = (),
    taps: Sequence[int] = (),
) -> Session:
    """Start QEMU and wait until the guest's init answers."""
    ours, theirs = socket.socketpair()
    kernel = os.open(boot.kernel, os.O_RDONLY | os.O_CLOEXEC)
    archive = os.open(boot.initramfs, os.O_RDONLY | os.O_CLOEXEC)
    keep = [theirs.fileno(), kernel, archive, *taps, *([] if memory is None else [memory])]
    helpers: list[process.HostProcess] = []
    sockets: dict[str, int] = {}
    try:
        if form.transport == "virtiofs":
            for tag, path, read_only in plan.exported(definition):
                helper, connection = _filesystem_daemon(definition, path, read_only)
                helpers.append(helper)
                sockets[tag] = connection.detach()
                keep.append(sockets[tag])
        if monitor is not None:
            keep.append(monitor.fileno())
        argv = command_line(
            definition,
            form,
            boot,
            channel=theirs.fileno(),
            kernel=f"/proc/self/fd/{kernel}",
            archive=f"/proc/self/fd/{archive}",
            filesystem_sockets=sockets,
            monitor=None if monitor is None else monitor.fileno(),
            memory_file=None if memory is None else f"/proc/self/fd/{memory}",
            memory_shared=True,
            tap=taps[0] if taps else 4,
        )
        writable = [definition.console] if definition.console else []
        if definition.display is not None:
            from virtscope.sandbox import screen

            writable += screen.folders(definition.display)
        options = [*launch, *confinement(definition, writable=writable)]
        options += lent([(kernel, boot.kernel), (archive, boot.initramfs)])
        machine = process.Group(process.HostProcess("QEMU", argv, keep=keep, launch=options), *helpers)
    except BaseException:
        for helper in helpers:
            helper.kill()
        ours.close()
        raise
    finally:
        theirs.close()
        for fd in (kernel, archive, *sockets.values()):
            os.close(fd)
    session = Session(ours, machine)
    try:
        session.wait_ready(time.monotonic() + BOOT_PATIENCE)
    except SandboxError:
        session.abandon()
        raise
    return session


def _filesystem_daemon(
    definition: Definition, path: str, read_only: bool
) -> tuple[process.HostProcess, socket.socket]:
    daemon = filesystem_daemon()
    if daemon is None:
        raise MissingDependency("virtiofsd is not installed; the 9p transport needs no daemon")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind("")  # an abstract name chosen by the kernel: nothing to clean up
        listener.listen(1)
        connection.connect(listener.getsockname())
        argv = [daemon, f"--fd={listener.fileno()}", "-o", f"source={path}", "-o", "sandbox=chroot"]
        argv += ["-o", "cache=" + ("always" if read_only else "auto"), "-o", "no_posix_lock"]
        launch = [option for option in confinement(definition) if not option.startswith("user=")]
        helper = process.HostProcess("virtiofsd", argv, keep=[listener.fileno()], launch=launch)
    except BaseException:
        connection.close()
        raise
    finally:
        listener.close()
    return helper, connection
