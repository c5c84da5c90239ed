"""qcow2 and qcow against qemu-img: every byte, holes, snapshots, chains, images in use, what may be
opened.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.recipes import qcow2
from tests.recipes.qcow2 import as_raw, run, write
from virtscope.block import open_image
from virtscope.block.image import Image
from virtscope.errors import BackingRefused, FormatError, GuestNotFound, UnsupportedFeature, UsageError


@pytest.fixture(scope="module")
def folder() -> Path:
    return qcow2.images()


def content(image: Image, step: int = 1 << 20) -> bytes:
    return b"".join(
        image.read_at(offset, min(step, image.size - offset)) for offset in range(0, image.size, step)
    )


def check_extents(image: Image, raw: bytes) -> int:
    """Extents cover the disk, and what is said to be zero is; returns the bytes of data."""
    reached = 0
    for offset, size, is_zero in image.extents():
        assert offset == reached
        reached += size
        if is_zero:
            assert not raw[offset : offset + size].strip(b"\0")
    assert reached == image.size
    return sum(size for _, size, is_zero in image.extents() if not is_zero)


@pytest.mark.parametrize("name", ["base", "overlay", "extended"])
def test_chain(folder: Path, name: str) -> None:
    raw = (folder / f"{name}.raw").read_bytes()
    with open_image(str(folder / f"{name}.qcow2")) as image:
        assert content(image) == raw
        assert content(image, 4099) == raw
        assert check_extents(image, raw) < 6 << 20
        assert len(list(image.chain())) == ["base", "overlay", "extended"].index(name) + 1


@pytest.mark.parametrize("name", qcow2.FORMATS)
def test_formats(folder: Path, name: str) -> None:
    raw = (folder / "overlay.raw").read_bytes()
    with open_image(str(folder / f"{name}.img")) as image:
        assert image.format == ("qcow" if name.startswith("qcow") else "qcow2")
        assert content(image) == raw
        assert content(image, 70_001) == raw
        check_extents(image, raw)


@pytest.mark.parametrize("name", ["v3", "zlib", "data-file", "metadata", "subclusters"])
def test_holes_are_known(folder: Path, name: str) -> None:
    # QEMU looks for a data file in its working directory, we look where the image is.
    mapped = json.loads(run("qemu-img", "map", "--output=json", f"{name}.img", cwd=folder))
    data = sum(part["length"] for part in mapped if part["data"] and not part["zero"])
    with open_image(str(folder / f"{name}.img")) as image:
        ours = sum(size for _, size, is_zero in image.extents() if not is_zero)
    assert ours <= data + (1 << 20)


def test_size_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "huge.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1000T")
    write(path, "write -P 1 900T 64k")
    with open_image(str(path)) as image:
        assert image.read_at(900 << 40, 4) == b"\1\1\1\1"
        assert image.read_at(image.size - 4096, 4096) == bytes(4096)
        assert [extent[:2] for extent in image.extents() if not extent[2]] == [(900 << 40, 65536)]


def test_snapshots(tmp_path: Path) -> None:
    path, raw = tmp_path / "snap.qcow2", tmp_path / "raw"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "16M")
    wanted = {}
    for number, name in enumerate(["first", "second", "3"], 1):
        write(path, f"write -P {number} {number}M 1M")
        run("qemu-img", "snapshot", "-c", name, path)
        as_raw(path, raw, "-l", f"snapshot.name={name}")
        wanted[name] = raw.read_bytes()
    write(path, "write -P 99 0 8M")
    with open_image(str(path)) as image:
        found = list(image.snapshots())
        assert [(snapshot.id, snapshot.name) for snapshot in found] == [
            ("1", "first"),
            ("2", "second"),
            ("3", "3"),
        ]
        assert {snapshot.size for snapshot in found} == {16 << 20}
        assert image.read_at(0, 1) == b"\x63"
    for name, raw_bytes in wanted.items():
        with open_image(str(path), snapshot=name) as image:
            assert content(image) == raw_bytes, name
    with open_image(str(path), snapshot="2") as image:
        assert content(image) == wanted["second"]
    with pytest.raises(UsageError, match="first, second"):
        open_image(str(path), snapshot="none")


@pytest.mark.parametrize("order", ["commit", "rebase"])
def test_chains_that_were_changed(folder: Path, tmp_path: Path, order: str) -> None:
    for name in ("base", "overlay", "extended"):
        shutil.copy(folder / f"{name}.qcow2", tmp_path)
    top = tmp_path / "extended.qcow2"
    if order == "commit":
        run("qemu-img", "commit", "-q", tmp_path / "overlay.qcow2")
    else:
        run("qemu-img", "rebase", "-q", "-b", tmp_path / "base.qcow2", "-F", "qcow2", top)
    raw = tmp_path / "raw"
    as_raw(top, raw)
    with open_image(str(top)) as image:
        assert content(image) == raw.read_bytes()


def test_backing_by_description(folder: Path, tmp_path: Path) -> None:
    described = {"driver": "qcow2", "file": {"driver": "file", "filename": str(folder / "overlay.qcow2")}}
    top = tmp_path / "top.qcow2"
    backing = ("-b", "json:" + json.dumps(described), "-F", "qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", *backing, top)
    with open_image(str(top), "qcow2") as image:
        assert content(image) == (folder / "overlay.raw").read_bytes()


def test_raw_backing_of_any_length(tmp_path: Path) -> None:
    base, top, raw = tmp_path / "base", tmp_path / "top", tmp_path / "raw"
    base.write_bytes(os.urandom(100_001))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top, "1M")
    as_raw(top, raw)
    with open_image(str(top)) as image:
        assert content(image) == raw.read_bytes()
    with open_image(str(base)) as image:
        assert image.size == 100_352
        assert content(image) == base.read_bytes() + bytes(351)


def test_backing_files_elsewhere_need_the_users_word(folder: Path, tmp_path: Path) -> None:
    top = tmp_path / "top.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", folder / "overlay.qcow2", "-F", "qcow2", top)
    with pytest.raises(BackingRefused, match=f"--allow-backing {folder}"):
        open_image(str(top))
    raw = (folder / "overlay.raw").read_bytes()
    for options in ({"format": "qcow2"}, {"allow_backing": [str(folder)]}):
        with open_image(str(top), **options) as image:
            assert content(image) == raw


def test_a_data_file_elsewhere_needs_the_users_word(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    data = tmp_path / "data"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data}", own / "top", "1M")
    with pytest.raises(BackingRefused, match="data file"):
        open_image(str(own / "top"))
    with open_image(str(own / "top"), "qcow2") as image:
        assert content(image) == bytes(1 << 20)


def test_a_missing_backing_file_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "overlay.qcow2", tmp_path)
    with pytest.raises(GuestNotFound, match=r"base\.qcow2, the backing file of .*overlay\.qcow2"):
        open_image(str(tmp_path / "overlay.qcow2"))


def test_a_chain_that_bites_its_tail(tmp_path: Path) -> None:
    for name, below in (("a", "b"), ("b", "a")):
        run(
            "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", below, "-F", "qcow2", tmp_path / name, "1M"
        )
    with pytest.raises(FormatError, match="based on"):
        open_image(str(tmp_path / "a"))


def test_long_chains(tmp_path: Path) -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "0", "1M")
    write(tmp_path / "0", "write -P 7 0 1M")
    for number in range(1, 150):
        backing = ("-b", str(number - 1), "-F", "qcow2")
        run("qemu-img", "create", "-q", "-u", "-f", "qcow2", *backing, tmp_path / str(number), "1M")
    with open_image(str(tmp_path / "149")) as image:
        assert content(image) == b"\7" * (1 << 20)
        assert list(image.extents()) == [(0, 1 << 20, False)]


@pytest.mark.parametrize("crypt", ["aes", "luks"])
def test_encrypted_images_are_refused_in_words(tmp_path: Path, crypt: str) -> None:
    path = tmp_path / "secret.qcow2"
    options = f"encrypt.format={crypt},encrypt.key-secret=s" + (",encrypt.iter-time=10" * (crypt == "luks"))
    secret = ("--object", "secret,id=s,data=word")
    command = ("qemu-img", "create", "-q", *secret, "-f", "qcow2", "-o", options, path, "1M")
    for _ in range(20):
        # QEMU measures the processor first, and now and then gives up on what it measured.
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            break
    else:
        run(*command)
    with pytest.raises(UnsupportedFeature, match=f"encrypted with {crypt.upper()}"):
        open_image(str(path))


def test_unknown_features_are_named(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.qcow2"
    data = bytearray((folder / "v3.img").read_bytes())
    table = data.index(b"dirty bit\0") - 2
    data[79] |= 1 << 6  # incompatible bit 6, which the table of names shall call:
    data[table : table + 48] = b"\0\6" + b"quantum clusters".ljust(46, b"\0")
    path.write_bytes(data)
    with pytest.raises(UnsupportedFeature, match="quantum clusters"):
        open_image(str(path))


def test_corrupt_and_dirty_images_are_read_and_the_first_is_said(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "marked.qcow2"
    raw = (folder / "overlay.raw").read_bytes()
    for bit, notes in ((1, 0), (2, 1)):
        data = bytearray((folder / "v3.img").read_bytes())
        data[79] |= bit
        path.write_bytes(data)
        with open_image(str(path)) as image:
            assert content(image) == raw
            assert len(image.notes) == notes


@pytest.mark.parametrize("format", ["qed", "vmdk", "vhdx", "vdi", "parallels"])
def test_other_formats_are_told_and_not_taken_for_raw(tmp_path: Path, format: str) -> None:
    path = tmp_path / "disk"
    run("qemu-img", "create", "-q", "-f", format, path, "16M")
    with pytest.raises(UnsupportedFeature, match="which is not read"):
        open_image(str(path))
    with open_image(str(path), "raw") as image:
        assert image.read_at(0, 512) == path.read_bytes()[:512]


def test_images_that_qemu_has_open(folder: Path, tmp_path: Path) -> None:
    for name in ("base", "overlay"):
        shutil.copy(folder / f"{name}.qcow2", tmp_path)
    path = tmp_path / "overlay.qcow2"
    daemon = subprocess.Popen(
        [
            *("qemu-system-x86_64", "-M", "none", "-display", "none"),
            *("-S", "-monitor", "stdio", "-drive", f"if=none,file={path}"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert daemon.stdout is not None
        assert b"QEMU" in daemon.stdout.readline()
        locked = subprocess.run(["qemu-img", "check", path], capture_output=True, text=True, check=False)
        assert "lock" in locked.stderr
        with open_image(str(path)) as image:
            assert content(image) == (folder / "overlay.raw").read_bytes()
    finally:
        daemon.kill()
        daemon.wait()


def test_an_image_replaced_while_it_is_read(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    shutil.copy(folder / "v3.img", path)
    digest = hashlib.sha256((folder / "overlay.raw").read_bytes()).digest()
    with open_image(str(path)) as image:
        image.read_at(0, 10)
        other = tmp_path / "other"
        other.write_bytes(b"something else")
        other.rename(path)
        assert hashlib.sha256(content(image)).digest() == digest


def test_an_image_cut_off_while_it_is_read(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    shutil.copy(folder / "full.img", path)
    with open_image(str(path)) as image:
        image.read_at(0, 10)
        os.truncate(path, 1 << 20)
        with pytest.raises(FormatError, match="shorter"):
            content(image)


def history(folder: Path, seed: int) -> Path:
    """A chain of up to three images of random layouts, with random writes, zeros, discards and snapshots."""
    source = random.Random(seed)
    name = ""
    for level in range(source.randint(1, 3)):
        layout = source.choice(
            (
                "cluster_size=512",
                "cluster_size=4k,refcount_bits=64",
                "cluster_size=64k,lazy_refcounts=on",
                "cluster_size=2M",
                "cluster_size=16k,extended_l2=on",
                "cluster_size=64k,extended_l2=on,compression_type=zstd",
                "compat=0.10,cluster_size=8k",
            )
        )
        backing = ("-b", name, "-F", "qcow2") if name else ()
        name = f"level{level}"
        size = source.choice((1 << 20, (3 << 20) + 512, 8 << 20))
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", layout, *backing, name, str(size), cwd=folder)
        commands = []
        for _ in range(25):
            unit = source.choice((512, 4096, 65536))
            start = source.randrange(size // unit) * unit
            length = min(source.randint(1, 24) * unit, size - start)
            verb = source.choice(
                ("write -P 1", "write -P 2", "write -P 3", "write -z", "write -z -u", "discard")
            )
            commands.append(f"{verb} {start} {length}")
        if "compat" not in layout:
            cluster = 2 << 20 if "2M" in layout else 65536
            if size >= cluster:
                # QEMU compresses only what was never written.
                write(folder / name, f"write -c -P 9 {source.randrange(size // cluster) * cluster} {cluster}")
        write(folder / name, *commands)
        if source.random() < 0.5:
            run("qemu-img", "snapshot", "-c", "one", name, cwd=folder)
            write(folder / name, *source.sample(commands, 10))
    return folder / name


def check_history(folder: Path, seed: int) -> None:
    top, raw = history(folder, seed), folder / "raw"
    as_raw(top, raw)
    wanted = raw.read_bytes()
    with open_image(str(top)) as image:
        assert content(image) == wanted
        assert content(image, 12_345) == wanted
        check_extents(image, wanted)
        names = [snapshot.name for snapshot in image.snapshots()]
    for name in names:
        as_raw(top, raw, "-l", f"snapshot.name={name}")
        with open_image(str(top), snapshot=name) as image:
            assert content(image) == raw.read_bytes()


@pytest.mark.parametrize("seed", range(8))
def test_random_histories(tmp_path: Path, seed: int) -> None:
    check_history(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 250))
def test_many_random_histories(tmp_path: Path, seed: int) -> None:
    check_history(tmp_path, seed)


def test_every_short_read_agrees_with_long_ones(folder: Path) -> None:
    raw = (folder / "extended.raw").read_bytes()
    with open_image(str(folder / "extended.qcow2")) as image:
        for start, size in itertools.product(range(1 << 20, (1 << 20) + 200_000, 7919), (1, 4096, 65_537)):
            assert image.read_at(start, size) == raw[start : start + size]
