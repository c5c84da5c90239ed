"""Names that mounts give to namespaces: `ip netns` keeps one by a bind mount below /run/netns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from virtscope.errors import CorruptData, NotMapped, UnknownLayout
from virtscope.kernel.collections import list_of, rbtree_of
from virtscope.kernel.paths import Paths

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel
    from virtscope.kernel.records import Record

_NSFS_MAGIC = 0x6E736673
_MAX_MOUNTS = 1 << 17


def mounts(kernel: Kernel, namespace: Record) -> Iterator[Record]:
    """The mounts of a `struct mnt_namespace`, as `struct mount`.

    Raises:
        CorruptData: their tree or list leads nowhere.
    """
    if kernel.struct("mount").has("mnt_node"):
        yield from rbtree_of(kernel, namespace.at("mounts"), "mount", "mnt_node", limit=_MAX_MOUNTS)
    else:
        yield from list_of(kernel, namespace.at("list"), "mount", "mnt_list", limit=_MAX_MOUNTS)


def network_namespace_names(kernel: Kernel) -> dict[int, str]:
    """The names `ip netns` has for network namespaces, by inode number, as process 1 sees them.

    What cannot be read has no name: a name is a comfort, not a reason to fail.
    """
    names: dict[int, str] = {}
    try:
        kernel.retried(lambda: names.update(_names(kernel)))
    except (CorruptData, UnknownLayout):
        kernel.notes.append("the names of network namespaces could not be read")
    return names


def _names(kernel: Kernel) -> dict[int, str]:
    paths = Paths(kernel)
    super_magic = kernel.struct("super_block").offset("s_magic")
    inode_at = kernel.struct("dentry").offset("d_inode")
    number_at = kernel.struct("inode").offset("i_ino")
    init = kernel.record("task_struct", kernel.symbol("init_task"))
    first = next(list_of(kernel, init.at("tasks"), "task_struct", "tasks"), None)
    proxy = first.follow("nsproxy") if first is not None else None
    names: dict[int, str] = {}
    if proxy is None:
        return names
    for mount in mounts(kernel, proxy.pointee("mnt_ns")):
        if kernel.read_u64(mount["mnt.mnt_sb"] + super_magic) != _NSFS_MAGIC:
            continue
        try:
            inode = kernel.read_pointer(mount["mnt.mnt_root"] + inode_at)
            number = kernel.read_u64(inode + number_at)
        except NotMapped:
            continue
        path = paths.path(mount.at("mnt"), mount["mnt.mnt_root"])
        folder, _, name = path.rpartition("/")
        if folder.endswith("/netns") and folder in ("/run/netns", "/var/run/netns"):
            names.setdefault(number, name)
    return names
