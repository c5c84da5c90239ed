"""The full names of kernel threads: longer than the 15 bytes of `comm`, and with what a worker is working on.

/proc shows them in place of `comm` (proc_task_name in fs/proc/array.c), so ps does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtscope.kernel.task_state import PF_KTHREAD, PF_WQ_WORKER

if TYPE_CHECKING:
    from virtscope.kernel.kernel import Kernel
    from virtscope.kernel.records import Record

_RESCUER = b"kworker/R-"
"""How the name of the thread begins that helps out a workqueue; the rest is the queue's name, cut off."""

_SHOWN = 63
"""Bytes of a name that /proc shows."""


def full_name(kernel: Kernel, task: Record) -> bytes:
    """The name of a task as /proc shows it; `comm` for all but kernel threads.

    Raises:
        CorruptData: a pointer leads nowhere.
    """
    comm: bytes = task["comm"]
    if not task["flags"] & PF_KTHREAD or not kernel.has_struct("kthread"):
        return comm
    layout = kernel.struct("kthread")
    address = task["worker_private"] if task.has("worker_private") else task["set_child_tid"]
    if not address:
        return comm
    thread = kernel._pointee(layout, address, "task_struct.worker_private")
    if task["flags"] & PF_WQ_WORKER and thread["data"] and kernel.has_struct("worker"):
        return _worker_name(kernel, comm, thread["data"])[:_SHOWN]
    if thread.has("full_name") and thread["full_name"]:
        return kernel.read_cstring(thread["full_name"], _SHOWN + 1)[:_SHOWN]
    return comm


def _worker_name(kernel: Kernel, comm: bytes, address: int) -> bytes:
    """The name of a workqueue's worker, with what it does behind a `+`, or did last behind a `-`."""
    worker = kernel._pointee(kernel.struct("worker"), address, "kthread.data")
    name = comm
    if comm.startswith(_RESCUER) and worker["rescue_wq"]:
        workqueue = worker["rescue_wq"] + kernel.struct("workqueue_struct").offset("name")
        name = _RESCUER + kernel.read_cstring(workqueue, _SHOWN)
    if not worker["pool"] or not worker["desc"]:
        return name
    description: bytes = worker["desc"]
    return name + (b"+" if worker["current_work"] else b"-") + description
