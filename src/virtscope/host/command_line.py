"""What a QEMU command line says of the guest: its name, its RAM, its monitors.

Only what is needed to find and read a guest is looked at; see qemu(1). A command line is written by whoever
runs the guest, by hand or by a program: what does not parse is left out, nothing here raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

DEFAULT_RAM_SIZE = 128 << 20
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50, "e": 1 << 60}
_SIZE = re.compile(r"(0x[0-9a-f]{1,16}|[0-9]{1,20}(?:\.[0-9]{1,20})?)([bkmgtpe]?)(?:ib|b)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class MemoryBackend:
    """One `-object memory-backend-*`, or the file of `-mem-path`.

    Attributes:
        id: the object's id; "" for `-mem-path`.
        kind: "ram", "file", "memfd", ...: what follows "memory-backend-".
        size: in bytes; None if not said.
        path: of the file or the directory that holds it, for "file".
    """

    id: str
    kind: str
    size: int | None
    path: str | None


@dataclass(frozen=True, slots=True)
class MonitorSocket:
    """A Unix socket on which QEMU listens for QMP clients.

    Attributes:
        path: as on the command line: relative paths count from QEMU's working directory.
        is_abstract: whether it is a name in the abstract namespace and not a path.
    """

    path: str
    is_abstract: bool = False


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A parsed QEMU command line.

    Attributes:
        name: the guest's name, if it was given one.
        uuid: the guest's UUID, if given, in lower case.
        ram_size: the size of the RAM it boots with, in bytes.
        can_grow: whether memory can be plugged in while it runs.
        machine: the machine type as given ("q35", "pc-i440fx-7.2"); "" if not given.
        machine_options: the other properties of the machine.
        backends: the memory backends, by id.
        ram_backends: the ids of those that make up the RAM it boots with, in guest-physical order; empty when
            QEMU makes the memory itself.
        monitors: the QMP sockets.
        is_managed: whether QEMU was handed its QMP socket as an open file, as libvirt does.
    """

    name: str | None
    uuid: str | None
    ram_size: int
    can_grow: bool
    machine: str
    machine_options: dict[str, str]
    backends: dict[str, MemoryBackend]
    ram_backends: tuple[str, ...]
    monitors: tuple[MonitorSocket, ...]
    is_managed: bool


def parse_command_line(arguments: Sequence[str]) -> CommandLine:
    """What `arguments` (argv with or without the program) say."""
    given = _Options(arguments)
    machine_options: dict[str, str] = {}
    for option in given.all("machine", "M"):
        machine_options.update(parse_options(option, "type"))
    memory: dict[str, str] = {}
    for option in given.all("m"):
        memory.update(parse_options(option, "size"))
    backends = {backend.id: backend for backend in _memory_backends(given)}
    names = [parse_options(option, "guest") for option in given.all("name")]
    uuids = given.all("uuid")
    ram_backends = _ram_backends(given, machine_options, backends)
    sizes = [backends[id].size for id in ram_backends]
    ram_size = parse_size(memory.get("size", ""), default_unit="m")
    if ram_size is None:
        ram_size = sum(size or 0 for size in sizes) or DEFAULT_RAM_SIZE
    return CommandLine(
        name=next((options["guest"] for options in reversed(names) if "guest" in options), None),
        uuid=uuids[-1].lower() if uuids else None,
        ram_size=ram_size,
        can_grow="maxmem" in memory or "slots" in memory,
        machine=machine_options.pop("type", ""),
        machine_options=machine_options,
        backends=backends,
        ram_backends=ram_backends,
        monitors=tuple(dict.fromkeys(_monitors(given))),
        is_managed=any("fd" in device for device in _sockets(given).values()),
    )


def parse_options(text: str, implied: str = "") -> dict[str, str]:
    """A QEMU option string: "key=value,flag,..." with ",," for a comma, or a flat JSON object.

    Args:
        text: the option's argument.
        implied: the key of a first value that comes without one.

    Returns:
        The last value of each key; a flag alone is "on". JSON values come as the first form has them.
    """
    if text.startswith("{"):
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            return {}
        return {key: _text(value) for key, value in document.items() if not isinstance(value, dict | list)}
    options: dict[str, str] = {}
    for number, part in enumerate(text.replace(",,", "\0").split(",")):
        key, equals, value = part.replace("\0", ",").partition("=")
        if equals:
            options[key] = value
        elif number == 0 and implied:
            options[implied] = key
        elif key:
            options[key] = "on"
    return options


def parse_size(text: str, default_unit: str = "b") -> int | None:
    """A size as QEMU takes it ("512", "1.5G", "1048576k") in bytes, or None if it is none."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    number, unit = match[1].lower(), _UNITS[match[2].lower() or default_unit]
    if number.startswith("0x"):
        return int(number, 16) * unit
    return int(float(number) * unit) if "." in number else int(number) * unit


class _Options:
    """The options of a command line, each with the argument behind it."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._given: dict[str, list[str]] = {}
        for option, argument in zip(arguments, [*arguments[1:], ""], strict=False):
            if option.startswith("-"):
                name = option[2:] if option.startswith("--") else option[1:]
                self._given.setdefault(name, []).append(argument)

    def all(self, *names: str) -> list[str]:
        """The arguments of every option of these names, in order (of the names, then of the command line)."""
        return [argument for name in names for argument in self._given.get(name, ())]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _memory_backends(given: _Options) -> Iterator[MemoryBackend]:
    for option in given.all("object"):
        options = parse_options(option, "qom-type")
        kind = options.get("qom-type", "")
        if kind.startswith("memory-backend-") and "id" in options:
            size = parse_size(options.get("size", ""))
            yield MemoryBackend(options["id"], kind[len("memory-backend-") :], size, options.get("mem-path"))
    for path in given.all("mem-path")[-1:]:
        yield MemoryBackend("", "file", None, path)


def _ram_backends(
    given: _Options, machine: dict[str, str], backends: dict[str, MemoryBackend]
) -> tuple[str, ...]:
    nodes: dict[int, str] = {}
    for option in given.all("numa"):
        options = parse_options(option, "type")
        if options.get("type") == "node" and "memdev" in options:
            number = options.get("nodeid", "")
            nodes[int(number[:4]) if number.isdecimal() else len(nodes)] = options["memdev"]
    ids = [nodes[node] for node in sorted(nodes)]
    if not ids and "memory-backend" in machine:
        ids = [machine["memory-backend"]]
    if not ids and "" in backends:
        ids = [""]
    return tuple(ids) if all(id in backends for id in ids) else ()


def _sockets(given: _Options) -> dict[str, dict[str, str]]:
    """The character devices that are sockets, by id."""
    devices = (parse_options(option, "backend") for option in given.all("chardev"))
    return {options.get("id", ""): options for options in devices if options.get("backend") == "socket"}


def _monitors(given: _Options) -> Iterator[MonitorSocket]:
    devices = _sockets(given)
    for option in given.all("qmp", "qmp-pretty"):
        if option.startswith("unix:"):
            yield from _listening(parse_options(option[len("unix:") :], "path"))
        elif option.startswith("chardev:"):
            yield from _listening(devices.get(option[len("chardev:") :], {}))
    for option in given.all("mon"):
        options = parse_options(option, "chardev")
        if options.get("mode") == "control":
            yield from _listening(devices.get(options.get("chardev", ""), {}))


def _listening(options: dict[str, str]) -> Iterator[MonitorSocket]:
    """The socket of a character device, if it is a Unix socket that waits for clients and has a name."""
    if options.get("path") and options.get("server") in ("on", "yes", "true"):
        yield MonitorSocket(options["path"], options.get("abstract") in ("on", "yes", "true"))
