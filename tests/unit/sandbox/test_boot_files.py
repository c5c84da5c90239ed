"""Kernels and archives: what is taken out of a boot image, what is put into an initramfs."""

from __future__ import annotations

import gzip
import lzma
import struct
import subprocess
from pathlib import Path

import pytest

from virtscope.errors import FormatError
from virtscope.sandbox import initramfs, kernels, vmlinux


def elf(note: bytes = b"") -> bytes:
    """A kernel of one loadable segment that ends in zeros, and a note."""
    code = b"\x90" * 100 + bytes(1000)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x1000, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 176, 0x1000, 0x1000, len(code), len(code) + 500, 0x1000)
    notes = struct.pack("<IIQQQQQQ", 4, 4, 176 + len(code), 0, 0, len(note), len(note), 4)
    return head + load + notes + code + note


PVH = struct.pack("<III", 4, 4, 18) + b"Xen\0" + b"\0\0\0\1"


def boot_image(payload: bytes) -> bytes:
    image = bytearray(0x400)
    image[0x1F1] = 1
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, 0x20F)
    struct.pack_into("<II", image, 0x248, 0, len(payload))
    return bytes(image) + payload


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_kernel_comes_out_of_its_boot_image(compress: object) -> None:
    assert callable(compress)
    kernel = elf(PVH)
    assert vmlinux.extract(boot_image(compress(kernel) + len(kernel).to_bytes(4, "little"))) == kernel


def test_zstd_and_lz4_kernels() -> None:
    zstandard = pytest.importorskip("zstandard")
    block = pytest.importorskip("lz4.block")
    kernel = elf(PVH)
    packed = zstandard.ZstdCompressor().compress(kernel) + len(kernel).to_bytes(4, "little")
    assert vmlinux.extract(boot_image(packed)) == kernel
    piece = block.compress(kernel, store_size=False)
    legacy = (
        b"\x02\x21\x4c\x18" + len(piece).to_bytes(4, "little") + piece + len(kernel).to_bytes(4, "little")
    )
    assert vmlinux.extract(boot_image(legacy)) == kernel


def test_an_elf_kernel_is_left_as_it_is() -> None:
    assert vmlinux.extract(elf()) == elf()


@pytest.mark.parametrize(
    "image",
    [b"", bytes(4096), boot_image(b"\x1f\x8bgarbage that is not gzip"), boot_image(b"nothing known" * 4)],
)
def test_what_is_no_kernel_is_refused(image: bytes) -> None:
    with pytest.raises(FormatError):
        vmlinux.extract(image)


def test_payload_past_the_end_is_refused() -> None:
    whole = boot_image(gzip.compress(elf()))
    with pytest.raises(FormatError):
        vmlinux.extract(whole[:-10])


def test_pvh_note_is_found() -> None:
    assert vmlinux.boots_directly(elf(PVH))
    assert not vmlinux.boots_directly(elf())
    assert not vmlinux.boots_directly(elf(PVH)[:120])


def test_padding_is_left_to_the_loader() -> None:
    kernel = elf(PVH)
    slim = vmlinux.without_padding(kernel)
    (size,) = struct.unpack_from("<Q", slim, 64 + 32)
    (memory,) = struct.unpack_from("<Q", slim, 64 + 40)
    assert (size, memory) == (100, 1600)
    assert vmlinux.boots_directly(slim)


def test_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    entries = [("dir", 0o040755, b""), ("dir/file", 0o100644, b"content")]
    data = b"".join(initramfs.cpio_entry(*entry, number) for number, entry in enumerate(entries, 1))
    data += initramfs.cpio_entry("TRAILER!!!", 0, b"", 0)
    done = subprocess.run(["busybox", "cpio", "-t"], input=data, capture_output=True, check=False)
    if done.returncode == 127:
        pytest.skip("busybox is not installed")
    assert done.stdout.split() == [b"dir", b"dir/file"]


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    (tmp_path / "modules.builtin").write_text("kernel/drivers/virtio/virtio.ko\n")
    (tmp_path / "modules.dep").write_text(
        "kernel/virtio_ring.ko.xz:\n"
        "kernel/virtio-mmio.ko.xz: kernel/virtio_ring.ko.xz\n"
        "kernel/virtio_console.ko.xz: kernel/virtio_ring.ko.xz kernel/virtio.ko\n"
    )
    kernel = kernels.Kernel("test", tmp_path / "vmlinuz", tmp_path)
    names = [file.name for file in kernels.module_files(kernel, ["mmio", "console"])]
    assert names == ["virtio_ring.ko.xz", "virtio-mmio.ko.xz", "virtio_console.ko.xz"]
    assert kernel.provides("mmio")
    assert not kernel.provides("9p")
