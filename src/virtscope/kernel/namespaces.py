"""The namespaces a process is in, by the inode numbers that /proc/PID/ns shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel
    from virtscope.kernel.records import Record


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Inode numbers of namespaces; None for a kind that the kernel does not have, or the process has left.

    Two processes are in the same namespace when the numbers are equal. A zombie has left all but `pid`
    and `user`.
    """

    cgroup: int | None = None
    ipc: int | None = None
    mnt: int | None = None
    net: int | None = None
    pid: int | None = None
    time: int | None = None
    user: int | None = None
    uts: int | None = None


_IN_NSPROXY = {
    "cgroup": ("cgroup_ns", "cgroup_namespace"),
    "ipc": ("ipc_ns", "ipc_namespace"),
    "mnt": ("mnt_ns", "mnt_namespace"),
    "net": ("net_ns", "net"),
    "time": ("time_ns", "time_namespace"),
    "uts": ("uts_ns", "uts_namespace"),
}
"""By /proc's name: the member of `struct nsproxy`, and the structure it points to."""


def read_namespaces(kernel: Kernel, task: Record, pid_namespace: int | None) -> Namespaces:
    """The namespaces of a task.

    Args:
        kernel: the kernel.
        task: its task_struct.
        pid_namespace: the address of the PID namespace it is in; None when it has left it.

    Raises:
        CorruptData: a pointer leads nowhere.
        UnknownLayout: the kernel's namespaces are not as expected.
    """
    numbers: dict[str, int] = {}
    proxy = task.follow("nsproxy")
    if proxy is not None:
        for kind, (member, struct) in _IN_NSPROXY.items():
            if proxy.has(member) and proxy[member]:
                numbers[kind] = inode_number(kernel, struct, proxy[member])
    if pid_namespace:
        numbers["pid"] = inode_number(kernel, "pid_namespace", pid_namespace)
    credentials = task.follow("real_cred")
    if credentials is not None and credentials["user_ns"]:
        numbers["user"] = inode_number(kernel, "user_namespace", credentials["user_ns"])
    return Namespaces(**numbers)


def inode_number(kernel: Kernel, struct: str, address: int) -> int:
    """The inode number of the namespace of type `struct` at `address`; raises NotMapped, UnknownLayout."""
    return kernel.read_u32(address + kernel.struct(struct).offset("ns.inum"))
