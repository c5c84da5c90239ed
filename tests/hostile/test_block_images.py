"""Damaged and malicious images: our own errors or bytes, in bounded time and memory, never anything else."""

from __future__ import annotations

import itertools
import os
import resource
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile.mutation import alarm, mutations
from tests.recipes.qcow2 import run, write
from virtscope.block import open_image
from virtscope.errors import FormatError, VirtscopeError

KINDS = {
    "v3": ("-f", "qcow2", "-o", "cluster_size=4k"),
    "v2": ("-f", "qcow2", "-o", "compat=0.10,cluster_size=512"),
    "subclusters": ("-f", "qcow2", "-o", "extended_l2=on,cluster_size=16k"),
    "qcow": ("-f", "qcow"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small images of every kind, with a backing image, a snapshot and compressed clusters."""
    made = tmp_path_factory.mktemp("images")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", made / "base", "1M")
    write(made / "base", "write -P 1 0 1M")
    for name, options in KINDS.items():
        image = made / name
        run("qemu-img", "create", "-q", *options, "-b", "base", "-F", "qcow2", image, "1M")
        write(image, "write -P 2 64k 70k", "write -P 3 900k 9k")
        if name != "qcow":
            write(image, "write -c -P 4 512k 64k", "write -z 700k 64k")
            run("qemu-img", "snapshot", "-c", "one", image)
            write(image, "write -P 5 64k 8k")
    for method in ("zlib", "zstd"):
        options = ("-o", f"compression_type={method},cluster_size=16k")
        run("qemu-img", "convert", "-c", "-O", "qcow2", *options, made / "v3", made / method)
    return made


def look(path: Path) -> None:
    """Use all that is there to be used."""
    with suppress(VirtscopeError), open_image(str(path)) as image:
        with suppress(VirtscopeError):
            for snapshot in itertools.islice(image.snapshots(), 100):
                assert isinstance(snapshot.name, str)
        for offset in (0, 65_000, 131_072, 530_000, 720_000, image.size - 4096, image.size // 2):
            with suppress(VirtscopeError):
                assert len(image.read_at(offset, 4096)) == 4096
        with suppress(VirtscopeError):
            size = min(image.size, 1 << 20)
            assert len(image.read_at(0, size)) == size
        with suppress(VirtscopeError):
            for _ in itertools.islice(image.extents(), 1000):
                pass
    with suppress(VirtscopeError), open_image(str(path), snapshot="one") as image:
        image.peek(64 << 10, 70_000)


def mutated(folder: Path, name: str, count: int, seed: int) -> None:
    whole = (folder / name).read_bytes()
    path = folder / f"{name}.mutated"
    path.write_bytes(whole)
    header, tables = (0, 600), (0, len(whole))
    entries = struct.unpack_from(">Q", whole, 40)[0]
    regions = [header, header, (entries, 64), (entries, 8192), tables]
    descriptor = os.open(path, os.O_RDWR)
    try:
        for changes in mutations(regions, count, seed):
            for place, data in changes:
                os.pwrite(descriptor, data, place)
            with alarm():
                look(path)
            for place, data in changes:
                os.pwrite(descriptor, whole[place : place + len(data)], place)
            os.ftruncate(descriptor, len(whole))
    finally:
        os.close(descriptor)


ALL = [*KINDS, "zlib", "zstd"]


@pytest.mark.parametrize("name", ALL)
def test_mutations(folder: Path, name: str) -> None:
    mutated(folder, name, 300, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_ten_thousand_mutations(folder: Path, name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mutated(folder, name, 10_000, seed=2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 << 10  # KiB


@pytest.mark.parametrize("name", ALL)
def test_truncations(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    path = folder / f"{name}.cut"
    for size in [*range(0, 130, 5), *range(130, len(whole), len(whole) // 30)]:
        path.write_bytes(whole[:size])
        with alarm():
            look(path)


def test_zeroed_parts(folder: Path) -> None:
    for name in ALL:
        whole = (folder / name).read_bytes()
        path = folder / f"{name}.zeroed"
        for start in range(0, len(whole), max(len(whole) // 25, 512)):
            path.write_bytes(whole[:start] + bytes(4096) + whole[start + 4096 :])
            with alarm():
                look(path)


@settings(max_examples=150, deadline=None)
@given(
    noise=st.binary(max_size=4096),
    magic=st.sampled_from([b"QFI\xfb\0\0\0\1", b"QFI\xfb\0\0\0\2", b"QFI\xfb\0\0\0\3"]),
)
def test_noise_behind_the_magic(tmp_path_factory: pytest.TempPathFactory, noise: bytes, magic: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(magic + noise)
    with alarm():
        look(path)


def test_a_truncated_image_is_an_error_and_not_zeros(folder: Path) -> None:
    whole = (folder / "v3").read_bytes()
    path = folder / "short"
    path.write_bytes(whole[: len(whole) - 16384])
    with open_image(str(path)) as image, pytest.raises(FormatError, match="truncated"):
        image.read_at(0, 1 << 20)


def test_all_tables_in_one_place(folder: Path) -> None:
    """Every first-level entry names the same second-level table."""
    path = folder / "same"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, "1G")
    data = bytearray(path.read_bytes())
    (entries,) = struct.unpack_from(">Q", data, 40)
    (count,) = struct.unpack_from(">I", data, 36)
    table = len(data)
    data += struct.pack(">64Q", *([1 << 63] * 64))
    data[entries : entries + 8 * count] = struct.pack(">Q", 1 << 63 | table) * count
    path.write_bytes(data)
    with alarm(60), open_image(str(path)) as image:
        assert list(image.extents(0, 64 << 20)) == [(0, 64 << 20, True)]


@pytest.mark.parametrize("what", ["folder", "pipe", "missing", "null"])
def test_what_is_no_image(tmp_path: Path, what: str) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    named = {"folder": str(tmp_path), "pipe": str(path), "missing": str(tmp_path / "x"), "null": "/dev/null"}
    with alarm(), pytest.raises(VirtscopeError) as caught:
        open_image(named[what])
    assert named[what] in str(caught.value)


def test_strange_names() -> None:
    for name in ("", "\0", "x" * 5000, "a\0b", "/proc/self/mem/x"):
        with pytest.raises(VirtscopeError):
            open_image(name)
