"""What a task is doing, in the letters and words of /proc and ps. Pure functions over task_struct's numbers.

The state bits are those of include/linux/sched.h since 4.14; older kernels have no type information to
read them by.
"""

from __future__ import annotations

_UNINTERRUPTIBLE = 0x0002
_NOLOAD = 0x0400
_RTLOCK_WAIT = 0x1000
_FROZEN = 0x8000
_IDLE = _UNINTERRUPTIBLE | _NOLOAD
_REPORTED = 0x007F
_LETTERS = "RSDTtXZP"
"""By the highest bit: none, interruptible, uninterruptible, stopped, traced, dead, zombie, parked."""

EXIT_DEAD = 0x0010
"""`task_struct.exit_state` of a task that nobody waits for any more."""

PF_WQ_WORKER = 0x00000020
PF_KTHREAD = 0x00200000

_POLICIES = ("other", "fifo", "rr", "batch", "iso", "idle", "deadline", "ext")


def state_letter(state: int, exit_state: int) -> str:
    """The letter of /proc/PID/stat and of ps's S column.

    Args:
        state: `task_struct.__state` (`state` before 5.14).
        exit_state: `task_struct.exit_state`.
    """
    if state & _IDLE == _IDLE:
        return "I"
    if state & (_RTLOCK_WAIT | _FROZEN):
        return "D"
    return _LETTERS[((state | exit_state) & _REPORTED).bit_length()]


def stat_string(
    letter: str,
    *,
    nice: int,
    locked: bool,
    session_leader: bool,
    threads: int,
    foreground: bool,
) -> str:
    """The STAT column of ps: the state's letter and what distinguishes the process.

    Args:
        letter: from `state_letter`.
        nice: the nice value; `<` for a higher priority than normal, `N` for a lower one.
        locked: whether it has pages locked in memory (`L`).
        session_leader: `s`.
        threads: how many there are; `l` for more than one.
        foreground: whether it is in its terminal's foreground process group (`+`).
    """
    return "".join(
        (
            letter,
            "<" if nice < 0 else "N" if nice > 0 else "",
            "L" if locked else "",
            "s" if session_leader else "",
            "l" if threads > 1 else "",
            "+" if foreground else "",
        )
    )


def policy_name(policy: int) -> str:
    """The scheduling policy without SCHED_, in lower case; the number for one that is not known."""
    return _POLICIES[policy] if 0 <= policy < len(_POLICIES) else str(policy)


def adjusted_cputime(
    utime_ns: int, stime_ns: int, runtime_ns: int, previous_utime_ns: int, previous_stime_ns: int
) -> tuple[int, int]:
    """User and system time as /proc reports them: the precise run time, divided as the timer ticks suggest.

    A tick charges its whole length to whoever runs when it comes; the scheduler measures the sum exactly.
    What was once reported (`prev_cputime`) never shrinks. Follows `cputime_adjust` of
    kernel/sched/cputime.c.

    Returns:
        User and system time in nanoseconds.
    """
    if previous_utime_ns + previous_stime_ns >= runtime_ns:
        return previous_utime_ns, previous_stime_ns
    if not stime_ns:
        system = 0
    elif not utime_ns:
        system = runtime_ns
    else:
        system = stime_ns * runtime_ns // (stime_ns + utime_ns)
    system = max(system, previous_stime_ns)
    user = runtime_ns - system
    if user < previous_utime_ns:
        user = previous_utime_ns
        system = runtime_ns - user
    return user, system
