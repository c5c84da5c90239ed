"""virt-ps: the processes of a running guest."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from virtscope.cli import ps_bsd
from virtscope.cli.command import Command, Example, Guests, Option
from virtscope.cli.printing import column_name
from virtscope.cli.ps_columns import COLUMNS, FACTS
from virtscope.errors import UnknownLayout, UsageError, VirtscopeError
from virtscope.kernel.processes import ALL_FACTS, Facts, Process, processes

if TYPE_CHECKING:
    from virtscope.guest import Guest

_FORMAT_GROUP = "What to show of each process"
_FILTER_GROUP = "Which processes"
_COMM_LENGTH = 15


def _words(text: str) -> list[str]:
    """A list as ps takes it: separated by commas or blanks."""
    return text.replace(",", " ").split()


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in _words(text)]
    except ValueError:
        raise ValueError(f"{text!r} is not a list of process ids") from None


def _users(text: str) -> list[int]:
    try:
        return [int(word) for word in _words(text)]
    except ValueError:
        raise ValueError(
            f"{text!r}: users are given by number, as their names are known only in the guest"
        ) from None


def _states(text: str) -> str:
    states = text.replace(",", "").replace(" ", "")
    if not states or set(states) - set("RSDTtXZPI"):
        raise ValueError(f"{text!r} are not states: they are R S D I T t Z X P")
    return states


_OPTIONS = (
    Option(
        ("bsd",),
        "options without a dash, as BSD's ps has them (aux, axl, axjf, axo pid,comm), or process ids",
        metavar="WORD",
        nargs="*",
        group=_FILTER_GROUP,
    ),
    Option(("-e", "-A"), "all processes: what is shown anyway, unless some are chosen", group=_FILTER_GROUP),
    Option(
        ("-p", "--pid"),
        "these processes, by id",
        metavar="PIDS",
        parse=_numbers,
        repeat=True,
        group=_FILTER_GROUP,
    ),
    Option(
        ("-C",),
        "processes of these names",
        metavar="NAMES",
        parse=_words,
        repeat=True,
        group=_FILTER_GROUP,
        dest="names",
    ),
    Option(
        ("-u", "--user"),
        "processes of these users, by effective id",
        metavar="UIDS",
        parse=_users,
        repeat=True,
        group=_FILTER_GROUP,
    ),
    Option(
        ("--ppid",),
        "the children of these processes",
        metavar="PIDS",
        parse=_numbers,
        repeat=True,
        group=_FILTER_GROUP,
    ),
    Option(
        ("-s", "--sid"),
        "processes of these sessions",
        metavar="SIDS",
        parse=_numbers,
        repeat=True,
        group=_FILTER_GROUP,
    ),
    Option(
        ("-t", "--tty"),
        "processes on these terminals (pts/0); ? for none",
        metavar="TTYS",
        parse=_words,
        repeat=True,
        group=_FILTER_GROUP,
    ),
    Option(("-r",), "only those that run or could", group=_FILTER_GROUP, dest="running"),
    Option(
        ("--state",),
        "only those in one of these states: R S D I T t Z X P",
        metavar="STATES",
        parse=_states,
        group=_FILTER_GROUP,
    ),
    Option(("-f",), "full: user, parent, start time, command line", group=_FORMAT_GROUP, dest="full"),
    Option(("-F",), "extra full: also size, resident memory and CPU", group=_FORMAT_GROUP, dest="extra_full"),
    Option(("-l",), "long: flags, state, priority, size, wait channel", group=_FORMAT_GROUP, dest="long"),
    Option(("-j",), "jobs: process group and session", group=_FORMAT_GROUP, dest="jobs"),
    Option(("-L",), "threads, one line each", group=_FORMAT_GROUP, dest="threads"),
    Option(("-H",), "children indented below their parents", group=_FORMAT_GROUP, dest="hierarchy"),
    Option(("--forest",), "as -H, with branches drawn", group=_FORMAT_GROUP),
    Option(("-w",), "wide, as it is anyway: nothing is cut off", group=_FORMAT_GROUP, dest="wide"),
)


def _parse_list(dest: str, text: str) -> Any:
    """What the option of that destination makes of `text`."""
    for option in _OPTIONS:
        if dest in (option.dest, *(flag.lstrip("-") for flag in option.flags)):
            return option.parse(text)
    return text


def _check(args: argparse.Namespace) -> None:
    ps_bsd.apply(args, _parse_list)
    if (args.forest or args.hierarchy) and args.sort:
        raise UsageError("--forest and -H put processes below their parents: they cannot be sorted too")
    if args.forest and args.hierarchy:
        raise UsageError("--forest and -H exclude each other")


def _default_columns(args: argparse.Namespace) -> tuple[str, ...]:
    """ps's own choice for each combination of formats; the order is the same in all of them."""
    columns = ps_bsd.columns(args)
    if columns is not None:
        return columns
    bsd = args.format is not None
    full, long, jobs, threads = args.full or args.extra_full, args.long, args.jobs, args.threads
    chosen = {
        "f": long,
        "s": long,
        "uid": full or long,
        "pid": True,
        "ppid": full or long,
        "pgleader": jobs,
        "sleader": jobs,
        "lwp": threads and (args.thread_ids or not bsd),
        "c": full or long,
        "nlwp": threads and full,
        "opri": long,
        "ni": long,
        "addr": long,
        "sz": long or args.extra_full,
        "rss": args.extra_full and not long,
        "psr": args.extra_full and not long,
        "wchan": long,
        "stime": full,
        "tname": True,
        "stat": bsd and not long,
        "time": not bsd,
        "bsdtime": bsd,
        "cmd": (full or bsd) and not args.short_command,
        "ucmd": not (full or bsd) or args.short_command,
    }
    return tuple(name for name, wanted in chosen.items() if wanted)


def _facts(args: argparse.Namespace) -> Facts:
    """What must be read for the columns shown, and to filter and sort."""
    names = [name for value in [*(args.columns or ()), *(args.sort or ())] for name in value.split(",")]
    if not args.columns:
        if args.json or args.jsonl:
            return ALL_FACTS
        names += _default_columns(args)
    facts = Facts(0)
    for name in names:
        column = COMMAND.column(column_name(name.strip().lstrip("+-")))
        if column is not None:
            facts |= FACTS[column.name]
    if args.user:
        facts |= Facts.CREDENTIALS
    if args.ppid or args.sid or args.tty or args.with_terminal or args.forest or args.hierarchy:
        facts |= Facts.IDS
    return facts


class _Branched:
    """A process in a tree, with what is drawn before its command."""

    def __init__(self, row: Process, branch: str) -> None:
        self._row = row
        self.branch = branch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._row, name)


class _Choice:
    """Which processes are wanted: those that any of ps's lists names, in one of the states asked for.

    Threads are chosen with their process.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.pids: set[int] = _union(args.pid)
        self.names: set[str] = {name[:_COMM_LENGTH] for name in _union(args.names)}
        self._long_names: set[str] = _union(args.names)
        self._users: set[int] = _union(args.user)
        self._parents: set[int] = _union(args.ppid)
        self._sessions: set[int] = _union(args.sid)
        self._terminals = {name.removeprefix("/dev/") for name in _union(args.tty)}
        self._with_terminal: bool = args.with_terminal
        self._states = "R" if args.running else args.state
        self._leaders: dict[int, bool] = {}
        self.by_facts = bool(self._users or self._parents or self._sessions or self._terminals)
        self.needs_types = self.by_facts or self._with_terminal or self._states is not None

    def __call__(self, row: Process) -> bool:
        if row.pid != row.tgid and row.tgid in self._leaders:
            return self._leaders[row.tgid]
        chosen = self._leaders[row.tgid] = self._is_chosen(row)
        return chosen

    def _is_chosen(self, row: Process) -> bool:
        if self._states is not None and (row.state is None or row.state not in self._states):
            return False
        if self._with_terminal and not row.tty:
            return False
        if not (self.pids or self.names or self.by_facts):
            return True
        return (
            row.tgid in self.pids
            or row.comm in self._long_names
            or row.comm in self.names
            or row.euid in self._users
            or row.ppid in self._parents
            or row.sid in self._sessions
            or (row.tty is not None and (row.tty or "?") in self._terminals)
        )


def _union(lists: Iterable[Iterable[Any]] | None) -> set[Any]:
    return {item for one in lists or () for item in one}


def _rows(guest: Guest, args: argparse.Namespace) -> Iterator[Process | _Branched]:
    choice = _Choice(args)
    if choice.needs_types and not guest.kernel.has_types:
        raise UnknownLayout(
            "only ids and names of processes are known without the kernel's type information (BTF): "
            "they cannot be chosen by anything else"
        )
    # Where nothing else is asked for, the reader need not look at processes of other ids or names.
    rows = processes(
        guest.kernel,
        facts=_facts(args),
        threads=args.threads,
        pids=choice.pids if choice.pids and not choice.names and not choice.by_facts else None,
        names=_union(args.names) if choice.names and not choice.pids and not choice.by_facts else None,
    )
    chosen = filter(choice, rows)
    return _tree(chosen, args) if args.forest or args.hierarchy else chosen


def _tree(rows: Iterator[Process], args: argparse.Namespace) -> Iterator[Process | _Branched]:
    """The processes below their parents; one whose parent is not among them begins a tree of its own."""
    problem: VirtscopeError | None = None
    threads: dict[int, list[Process]] = {}
    try:
        for row in rows:
            threads.setdefault(row.tgid, []).append(row)
    except VirtscopeError as error:
        problem = error
    children: dict[int, list[int]] = {}
    tops: list[int] = []
    for pid, (leader, *_) in threads.items():
        parent = leader.ppid
        if parent is None or parent not in threads or parent == pid:
            tops.append(pid)
        else:
            children.setdefault(parent, []).append(pid)
    shown: set[int] = set()
    # ps shows the last tree first. The second time round gets what circles in a corrupt guest have left over.
    for top in [*reversed(tops), *threads]:
        pending = [(top, "", "")]
        while pending:
            pid, branch, below = pending.pop()
            if pid in shown:
                continue
            shown.add(pid)
            for row in threads[pid]:
                yield row if args.json or args.jsonl else _Branched(row, branch)
            offspring = children.get(pid, [])
            for number, child in enumerate(reversed(offspring)):
                if args.hierarchy:
                    pending.append((child, f"{below}  ", f"{below}  "))
                elif pid == 1:  # what init has started or adopted is its own tree, as in ps
                    pending.append((child, "", ""))
                else:
                    pending.append((child, f"{below} \\_ ", f"{below}{' |  ' if number else '    '}"))
    if problem is not None:
        raise problem


COMMAND = Command(
    name="virt-ps",
    summary="list the processes of a running guest, from outside",
    description="""Lists the processes of a running virtual machine as ps(1) does inside it, read from
outside, from its live memory: without an agent, without the guest's help, and also when the guest is stuck.

The options and columns are those of ps, those without a dash among them (aux, axjf). Without any, all
processes are shown, as ps -e does. Times are UTC, by the guest's own clock.""",
    guests=Guests.MEMORY,
    options=_OPTIONS,
    columns=COLUMNS,
    default_columns=_default_columns,
    gap=1,
    rows=_rows,
    rewrite=ps_bsd.rewritten,
    check=_check,
    searches=lambda args: _Choice(args).needs_types or bool(args.pid or args.names),
    examples=(
        Example("virt-ps -ef -d web", "all processes of the libvirt domain web, with their command lines"),
        Example("virt-ps aux --qemu 1234", "all processes, with what each takes of CPU and memory"),
        Example("virt-ps --state D -o pid,wchan,args --qemu 1234", "what is stuck in a guest, and where"),
        Example("virt-ps --sort -rss -o pid,rss,pmem,comm", "what takes the memory of the running guests"),
        Example("virt-ps -ejH -m web.core", "process groups and sessions in a memory dump, as a tree"),
    ),
    see_also=("virt-dmesg", "virt-uname", "virt-ifconfig", "ps"),
    notes=(
        (
            "What is shown",
            """Command lines are read from the processes' own memory. A name in brackets is a kernel thread,
or a process without arguments, as in ps. A name in parentheses is a process whose arguments are not in the
guest's memory, because they were swapped out.

With -j, a * behind a process group's or session's id says that the process of that id has ended.

Wait channels are shown without the underscores they begin with, as ps does; JSON and CSV have them whole.

User and group names are known only inside the guest: their numbers are shown.

Kernels without type information (BTF) are shown with ids and names of processes only.""",
        ),
        (
            "BSD options",
            """Words without a dash are options of BSD's ps, and numbers are process ids. The formats: u
(user, share of CPU and memory, sizes, start), l (long), j (jobs). Which processes: a and x (all; a
alone: those with a terminal), r (running), and with lists p (process ids), t (terminals), U (users).
How: f (as a tree), H (threads as processes), c (the name in place of the command line), h (no headings),
w (as it is anyway), o (columns), k (sort). With a dash before it, -aux is taken for aux.""",
        ),
    ),
)
main = COMMAND.main
