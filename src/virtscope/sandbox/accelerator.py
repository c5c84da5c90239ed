"""Whether KVM really works here, found by trying, and the host's clock rate that an emulated guest is told.

A /dev/kvm that opens proves nothing: nested and paravirtual hosts have one that never runs a guest to its
end. So the first start tries a real boot under a deadline and remembers the answer until the host is
rebooted.
"""

from __future__ import annotations

import os

TRIAL_SECONDS = 4.0


def usable() -> str:
    """Returns "kvm" or "tcg"."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    from virtscope.sandbox import cache

    path = cache.cache_directory() / "accelerator"
    now = _host()
    try:
        known, _, answer = path.read_text().partition("\n")
    except OSError:
        known = answer = ""
    if known == now and answer in ("kvm", "tcg"):
        return answer
    with cache.locked("accelerator"):
        answer = "kvm" if _trial() else "tcg"
        temporary = path.with_name(f".accelerator.{os.getpid()}")
        temporary.write_text(f"{now}\n{answer}")
        temporary.rename(path)
    return answer


def explanation(accelerator: str) -> str:
    """One sentence for the user when this is not hardware virtualization."""
    if accelerator == "kvm":
        return ""
    if not os.path.exists("/dev/kvm"):
        why = "this host has no /dev/kvm"
    elif not os.access("/dev/kvm", os.R_OK | os.W_OK):
        why = "this user may not use /dev/kvm"
    else:
        why = "a guest did not come up with KVM on this host"
    return f"software emulation: {why}"


def to_be_said(choice: str) -> str:
    """The explanation, the first time after a boot of the host that somebody asks; else nothing."""
    if choice == "kvm":
        return ""
    from virtscope.sandbox import cache

    path = cache.cache_directory() / "said"
    now = _host() + choice
    try:
        if path.read_text() == now:
            return ""
    except OSError:
        pass
    sentence = (
        explanation(usable() if choice == "auto" else choice) if choice == "auto" else "software emulation"
    )
    path.write_text(now)
    return sentence


def tsc_khz() -> int:
    """The rate of the host's time stamp counter in kHz, 0 if it has none; found once after every boot."""
    from virtscope.sandbox import cache

    path = os.path.join(cache.folder(), "clock")
    now = _boot()
    try:
        with open(path, encoding="ascii") as stream:
            known, _, rate = stream.read().partition("\n")
        if known == now:
            return int(rate)
    except (OSError, ValueError):
        pass
    with cache.locked("clock"):
        rate = _measured_khz()
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "w", encoding="ascii") as stream:
            stream.write(f"{now}\n{rate}")
        os.rename(temporary, path)
    return int(rate)


def _measured_khz() -> str:
    if os.uname().machine != "x86_64":
        return "0"
    import subprocess

    from virtscope.sandbox import compiler

    done = subprocess.run([compiler.guest_init(), "clock"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.stdout.strip().isdigit() else "0"


def _boot() -> str:
    """This boot of the host."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()


def _host() -> str:
    """What the remembered answer holds for: this boot of this host, this QEMU."""
    from virtscope.sandbox import cache, qemu

    return cache.fingerprint(_boot(), cache.file_identity(qemu.binary()))


def _trial() -> bool:
    from virtscope.errors import VirtscopeError
    from virtscope.sandbox import initramfs, kernels, qemu
    from virtscope.sandbox.definition import Definition

    definition = Definition(accelerator="kvm", snapshot=False)
    patience, qemu.BOOT_PATIENCE = qemu.BOOT_PATIENCE, TRIAL_SECONDS
    try:
        kernel = kernels.choose()
        form = qemu.shape(definition, kernel)
        session = qemu.boot_machine(definition, form, initramfs.prepare(kernel, form.features))
        session.abandon()
    except VirtscopeError:
        return False
    finally:
        qemu.BOOT_PATIENCE = patience
    return True
