"""Files in sandboxes: mounts, overlays, images, and what is shared for writing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm.sandboxes import MACHINES, chosen, usable
from virtscope.errors import SandboxError, UsageError
from virtscope.sandbox import Sandbox


def test_mounts(sandbox: Sandbox, tmp_path: Path) -> None:
    shown, shared_folder = tmp_path / "shown", tmp_path / "shared"
    for folder in (shown, shared_folder):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
    box = (
        sandbox.with_bind("/tmp/shown", str(shown))
        .with_bind("/tmp/shared", str(shared_folder), writable=True)
        .with_ram("/tmp/ram", "16M")
        .with_file(str(shown / "file"), "/tmp/included/copy")
    )
    script = """
        cat /tmp/shown/file /tmp/shared/file /tmp/included/copy
        touch /tmp/shown/no 2>/dev/null && echo "shown is writable"
        echo changed > /tmp/shared/new && echo more >> /tmp/included/copy
        df -k /tmp/ram | tail -1 | tr -s ' ' | cut -d' ' -f2
    """
    with box as session:
        result = session.run(["sh", "-c", script], timeout=60)
    assert result.stdout.decode() == "shownsharedshown" + "16384\n", result
    assert (shared_folder / "new").read_text() == "changed\n"
    assert (shown / "file").read_text() == "shown"


@pytest.mark.parametrize(
    ("name", "transport"),
    [("qemu:", "9p"), ("qemu:", "virtiofs"), ("uml:", "auto"), ("namespaces:", "auto")],
)
def test_a_single_file_shared_for_writing(name: str, transport: str, tmp_path: Path) -> None:
    shared, beside = tmp_path / "shared", tmp_path / "beside"
    shared.write_text("host\n")
    beside.write_text("secret")
    box = usable(name).with_options(transport=transport).with_user("root")
    box = box.with_bind("/tmp/file", str(shared), writable=True)
    assert str(tmp_path) not in box.dry_run()
    look = "mkdir /tmp/look; mount -t virtiofs bind0 /tmp/look && ls -A /tmp/look && touch /tmp/look/new"
    with box as session:
        result = session.run(["sh", "-c", "cat /tmp/file; echo guest >> /tmp/file"], timeout=60)
        assert result.stdout == b"host\n", result
        if transport == "virtiofs":
            # not even its root finds anything else in what the machine was given; 9p exports the same
            seen = session.run(["sh", "-c", look], timeout=60)
            assert (seen.status, seen.stdout) == (1, b"file\n"), seen
        if os.geteuid() == 0:
            assert session.run(["mv", "/tmp/file", "/tmp/other"], timeout=60).status != 0
    assert shared.read_text() == "host\nguest\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beside", "shared"]


def test_a_single_file_cannot_be_shared_for_writing_by_libvirt(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not a single file"):
        Sandbox().on("qemu:///session").with_bind("/tmp/x", str(tmp_path / "file"), writable=True).dry_run()


def test_overlay_is_thrown_away(sandbox: Sandbox) -> None:
    machine = "qemu" in sandbox.definition.backend or "uml" in sandbox.definition.backend
    if os.geteuid() and machine:
        sandbox = sandbox.with_user("root")  # in a machine of their own anybody may be
    with sandbox.with_overlay() as session:
        result = session.run(
            ["sh", "-c", "echo x > /etc/virtscope-x && rm /etc/passwd && cat /etc/virtscope-x"]
        )
    assert (result.status, result.stdout) == (0, b"x\n"), result
    assert not Path("/etc/virtscope-x").exists()
    assert Path("/etc/passwd").exists()


def test_mount_where_the_host_has_nothing(sandbox: Sandbox) -> None:
    with sandbox.with_ram("/a-new-place", "1M") as session:
        assert session.run(["touch", "/a-new-place/x"], timeout=30).ok


@pytest.mark.parametrize("name", MACHINES)
def test_image_mounted_by_the_guest(name: str, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", image, "16M"], check=True)
    with usable(name).with_image("/tmp/disk", str(image), writable=True) as session:
        result = session.run(
            ["sh", "-c", "echo kept > /tmp/disk/file && df -T /tmp/disk | tail -1"], timeout=60
        )
        assert b"ext4" in result.stdout, result
    listing = subprocess.run(["debugfs", "-R", "cat file", image], capture_output=True, check=True)
    assert listing.stdout == b"kept\n"
    assert subprocess.run(["e2fsck", "-fn", image], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", MACHINES)
def test_read_only_disk_cannot_be_written(name: str, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    device = "/dev/ubda" if name == "uml:" else "/dev/vda"
    with usable(name).with_disk(str(image)) as session:
        assert session.run(["sh", "-c", f"echo bad > {device}"], timeout=60).status != 0
        assert session.run(["blockdev", "--getsize64", device], timeout=60).stdout == b"1048576\n"
    assert image.read_bytes() == bytes(1 << 20)


@pytest.mark.parametrize("name", ["qemu:", "uml:", "namespaces:", "lxc:///system"])
def test_overlay_that_is_kept(name: str, daemon: Callable[[str], str], tmp_path: Path) -> None:
    box = chosen(name, daemon).with_overlay(str(tmp_path))
    change = "echo kept > /etc/virtscope-kept && rm /etc/hostname"
    with box as session:
        assert session.run(["sh", "-c", change], timeout=60).ok
        if name == "namespaces:":
            with pytest.raises(SandboxError, match="another sandbox"):
                box.start()
    with box as session:
        assert session.run(["cat", "/etc/virtscope-kept"], timeout=60).stdout == b"kept\n"
        assert session.run(["cat", "/etc/hostname"], timeout=60).status == 1
    assert not Path("/etc/virtscope-kept").exists()
    assert Path("/etc/hostname").exists()
    assert all(entry.stat().st_mode & 0o077 == 0 for entry in tmp_path.iterdir() if entry.is_dir())


BESIDE_MOUNTS = """
from virtscope.sandbox import Sandbox
with Sandbox().on("namespaces:").with_overlay().with_bind("/tmp/shown", "/var/opt/shown") as session:
    script = '''
        echo 1 > /var/opt/new && rm /var/opt/old && echo 2 > /var/lib/virtscope-x && echo 3 > /var/virtscope-x
        cat /var/opt/new /var/lib/virtscope-x /var/virtscope-x && ls -A /var/opt && rm /etc/passwd
        touch /tmp/shown/x 2>/dev/null || touch /tmp/shown/inner/x 2>/dev/null || echo read-only
    '''
    print(session.run(["sh", "-c", script], timeout=30).stdout.decode(), end="")
"""


def test_mounts_of_the_host_under_an_overlay() -> None:
    """Folders with a mount below them can be written to; what is shown read-only is so on any mount."""
    usable("namespaces:")
    if os.geteuid():
        pytest.skip("only root can mount something on the host, for itself alone")
    mounts = """
        mount -t tmpfs -o nosuid,nodev,noexec none /var/opt && mkdir -p /var/opt/shown/inner
        mount -t tmpfs none /var/opt/shown/inner && echo old > /var/opt/old
        mount --bind /etc/hostname /etc/hostname && "$@" && cat /var/opt/old
    """
    words = ["unshare", "-m", "sh", "-ec", mounts, "sh", sys.executable, "-c", BESIDE_MOUNTS]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout == "1\n2\n3\nnew\nshown\nread-only\nold\n", done
    assert not Path("/var/virtscope-x").exists()


@pytest.mark.parametrize("transport", ["9p", "virtiofs"])
def test_both_transports_from_a_cold_boot(transport: str) -> None:
    with usable("qemu:").with_options(transport=transport, snapshot=False) as session:
        assert session.run(["cat", "/etc/hostname"], timeout=60).stdout == Path("/etc/hostname").read_bytes()


def test_what_the_caller_cannot_see_the_machine_does_not_serve() -> None:
    """Even the guest's root, looking under the private folders, does not find the host's."""
    with usable("qemu:").with_user("root") as session:
        result = session.run(
            ["sh", "-c", "umount -l /home && umount -l /root && ls -A /home /root"], timeout=30
        )
    assert result.ok, result
    assert result.stdout.decode().split() == ["/home:", "/root:"]
