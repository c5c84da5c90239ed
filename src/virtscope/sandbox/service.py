"""System services in sandboxes: a unit's command, user and environment, its state kept on images of its own.

`read_unit` understands as much of systemd.service(5) and systemd.exec(5) as says what to run and as whom.
`ServiceStore` keeps what was created; a service that runs is a supervising process of ours with a sandbox in
it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from virtscope.errors import GuestNotFound, SandboxError, UsageError
from virtscope.sandbox import Sandbox, process, runtime
from virtscope.sandbox.definition import Identity

UNIT_FOLDERS = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
STATE_SIZE = 1 << 30
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_DIRECTORIES = {"StateDirectory": "/var/lib", "CacheDirectory": "/var/cache", "LogsDirectory": "/var/log"}


@dataclass(frozen=True, slots=True)
class Unit:
    """What a service unit says about its process.

    Args:
        name: the unit's name.
        argv: the command of ExecStart.
        user: who it runs as.
        environment: NAME=VALUE words.
        folder: its working directory.
        state: folders whose content is kept.
        runtime: folders that are there while it runs.
    """

    name: str
    argv: tuple[str, ...]
    user: str
    environment: tuple[str, ...]
    folder: str
    state: tuple[str, ...]
    runtime: tuple[str, ...]


def read_unit(name: str, folders: tuple[str, ...] = UNIT_FOLDERS) -> Unit:
    """Read a unit of the host by name ("nginx.service", "nginx", "foo@bar.service") or path.

    Raises:
        GuestNotFound: there is no such unit.
        UsageError: it is not a service, or starts nothing.
    """
    wanted = name if name.endswith(".service") or "/" in name else f"{name}.service"
    stem = os.path.basename(wanted).removesuffix(".service")
    template, at, instance = stem.partition("@")
    candidates = [wanted] if "/" in wanted else [f"{folder}/{wanted}" for folder in folders]
    if at and "/" not in wanted:
        candidates += [f"{folder}/{template}@.service" for folder in folders]
    path = next((candidate for candidate in candidates if os.path.isfile(candidate)), None)
    if path is None:
        raise GuestNotFound(f"{name}: no such service unit on this host")
    settings = _settings(path)
    specifiers = {
        "%n": f"{stem}.service",
        "%N": stem,
        "%p": template,
        "%i": instance,
        "%I": instance,
        "%%": "%",
    }
    specifiers |= {"%t": "/run", "%S": "/var/lib", "%C": "/var/cache", "%L": "/var/log"}

    def expand(text: str) -> str:
        return re.sub(r"%.", lambda match: specifiers.get(match[0], match[0]), text)

    variables: dict[str, str] = {}
    for line in settings.get("EnvironmentFile", []):
        variables |= _environment_file(expand(line))
    for line in settings.get("Environment", []):
        for word in shlex.split(expand(line)):
            key, _, value = word.partition("=")
            variables[key] = value
    commands = settings.get("ExecStart", [])
    if not commands:
        raise UsageError(f"{path}: this unit has no ExecStart")
    words = shlex.split(expand(commands[-1].lstrip("@-:+!")))
    argv = [re.sub(r"\$\{(\w+)\}", lambda match: variables.get(match[1], ""), word) for word in words]
    argv = [piece for word in argv for piece in _bare_variable(word, variables)]
    state = [f"{top}/{word}" for key, top in _DIRECTORIES.items() for word in _words(settings, key, expand)]
    return Unit(
        f"{stem}.service",
        tuple(argv),
        _last(settings, "User", "root"),
        tuple(f"{key}={value}" for key, value in variables.items()),
        expand(_last(settings, "WorkingDirectory", "/").lstrip("-")),
        tuple(state),
        tuple(f"/run/{word}" for word in _words(settings, "RuntimeDirectory", expand)),
    )


def _settings(path: str) -> dict[str, list[str]]:
    """The [Service] section with its drop-ins: every value of every key; an empty value resets."""
    files = [path, *sorted(str(file) for file in Path(f"{path}.d").glob("*.conf"))]
    found: dict[str, list[str]] = {}
    for file in files:
        section = ""
        with open(file, encoding="utf-8", errors="replace") as stream:
            text = re.sub(r"\\\n\s*", " ", stream.read(1 << 20))
        for line in text.splitlines():
            line = line.strip()
            if line.startswith("["):
                section = line
            elif section == "[Service]" and "=" in line and line[0] not in "#;":
                key, _, value = line.partition("=")
                if value.strip():
                    found.setdefault(key.strip(), []).append(value.strip())
                else:
                    found[key.strip()] = []
    return found


def _words(settings: dict[str, list[str]], key: str, expand: object) -> list[str]:
    assert callable(expand)
    words = [word.partition(":")[0] for line in settings.get(key, []) for word in str(expand(line)).split()]
    if any(word.startswith("/") or ".." in word.split("/") for word in words):
        raise UsageError(f"{key}: must name a folder below its place")
    return words


def _last(settings: dict[str, list[str]], key: str, default: str) -> str:
    return (settings.get(key) or [default])[-1]


def _bare_variable(word: str, variables: dict[str, str]) -> list[str]:
    if re.fullmatch(r"\$\w+", word):
        return variables.get(word[1:], "").split()
    return [word]


def _environment_file(name: str) -> dict[str, str]:
    path = Path(name.lstrip("-"))
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        if name.startswith("-"):
            return {}
        raise UsageError(f"{path}: {error.strerror}") from None
    pairs = (
        line.partition("=") for line in text.splitlines() if "=" in line and line.lstrip()[:1] not in "#;"
    )
    return {key.strip(): value.strip().strip("'\"") for key, _, value in pairs}


def sandbox_for(unit: Unit, images: dict[str, str], base: Sandbox) -> Sandbox:
    """The sandbox of a service: its user, its environment, its state folders on images or in memory."""
    sandbox = base.with_user(Identity.named(unit.user))
    sandbox = sandbox.with_environment(dict(word.split("=", 1) for word in unit.environment))
    for folder in unit.state:
        if folder in images:
            sandbox = sandbox.with_image(folder, images[folder], writable=True)
        else:
            sandbox = sandbox.with_ram(folder)
    for folder in unit.runtime:
        sandbox = sandbox.with_ram(folder)
    from dataclasses import replace

    return replace(sandbox, cwd=unit.folder)


@dataclass(frozen=True, slots=True)
class Service:
    """A row of `virt-sandbox-service list`.

    Args:
        name: the service's.
        unit: the host's unit it was made from.
        backend: where it runs.
        state: "running", "stopped" or "failed".
        pid: of the process that supervises it.
    """

    name: str
    unit: str
    backend: str
    state: str
    pid: int | None


class ServiceStore:
    """The services this user has created, each a folder with what it is, its state images and its log."""

    def __init__(self) -> None:
        base = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local/share")
        self.folder = Path(
            "/var/lib/virtscope/services" if os.geteuid() == 0 else f"{base}/virtscope/services"
        )
        if os.environ.get("XDG_DATA_HOME"):
            self.folder = Path(base, "virtscope", "services")

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r}: a service's name is letters, digits, '.', '_', '-' and '@'")
        return self.folder / name

    def _read(self, name: str) -> dict[str, object]:
        try:
            value = json.loads((self._path(name) / "service.json").read_text())
        except (OSError, ValueError):
            raise GuestNotFound(f"{name}: there is no such service (virt-sandbox-service create)") from None
        return value if isinstance(value, dict) else {}

    def create(self, name: str, unit: Unit, backend: str, *, size: int = STATE_SIZE) -> None:
        """Create a service; its state folders get an ext4 image each.

        Raises:
            UsageError: there is one of this name.
            SandboxError: the images could not be made.
        """
        folder = self._path(name)
        if folder.exists():
            raise UsageError(f"{name}: there is such a service already")
        temporary = folder.with_name(f".{name}.{os.getpid()}")
        temporary.mkdir(parents=True, mode=0o700)
        try:
            who = Identity.named(unit.user)
            images = {}
            for number, place in enumerate(unit.state):
                image = f"state{number}.img"
                images[place] = image
                owner = f"root_owner={who.uid}:{who.gid}"
                command = [process.program("mke2fs", "/sbin/mke2fs"), "-q", "-t", "ext4", "-E", owner]
                words = [*command, str(temporary / image), f"{size >> 10}k"]
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SandboxError(
                        f"{name}: its state image could not be made: {done.stderr.strip()[-200:]}"
                    )
            document = {"unit": asdict(unit), "backend": backend, "images": images}
            (temporary / "service.json").write_text(json.dumps(document, indent=1))
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def load(self, name: str) -> tuple[Unit, Sandbox]:
        """The unit of a service and its sandbox."""
        document = self._read(name)
        raw = document.get("unit")
        if not isinstance(raw, dict):
            raise GuestNotFound(f"{name}: its description is damaged")
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()
        }
        try:
            unit = Unit(**fields)
        except TypeError:
            raise GuestNotFound(f"{name}: its description is of another version") from None
        images = document.get("images")
        paths = {k: str(self._path(name) / v) for k, v in images.items()} if isinstance(images, dict) else {}
        return unit, sandbox_for(unit, paths, Sandbox().on(str(document.get("backend"))))

    def pid(self, name: str) -> int | None:
        """The process that supervises a service, if it runs."""
        try:
            number, _, started = (self._path(name) / "pid").read_text().partition(" ")
            pid = int(number)
        except (OSError, ValueError):
            return None
        return pid if started and runtime.start_time(pid) == int(started) else None

    def start(self, name: str) -> int:
        """Start a service in the background; returns the supervisor's process id.

        Raises:
            UsageError: it runs already.
            SandboxError: it ended at once; its log says why.
        """
        self._read(name)
        if self.pid(name) is not None:
            raise UsageError(f"{name}: runs already")
        folder = self._path(name)
        program = "import sys; from virtscope.cli.sandbox_service import main; sys.exit(main())"
        with open(folder / "log", "ab") as log:
            supervisor = subprocess.Popen(
                [sys.executable, "-c", program, "run", name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        (folder / "status").unlink(missing_ok=True)
        (folder / "pid").write_text(f"{supervisor.pid} {runtime.start_time(supervisor.pid)}")
        deadline = time.monotonic() + 60
        while not (folder / "ready").exists() and time.monotonic() < deadline:
            if supervisor.poll() is not None:
                raise SandboxError(f"{name}: ended with status {supervisor.returncode}; see {folder / 'log'}")
            time.sleep(0.02)
        return supervisor.pid

    def run(self, name: str) -> int:
        """Be the supervisor of a service: start its sandbox, wait for its command, keep its status."""
        from virtscope.sandbox import terminal

        folder = self._path(name)
        unit, sandbox = self.load(name)
        ready = folder / "ready"
        try:
            with sandbox.start() as session:
                ready.touch()
                result = terminal.run(session, unit.argv, terminal=False)
        finally:
            ready.unlink(missing_ok=True)
        (folder / "status").write_text(str(result.status))
        return result.status

    def stop(self, name: str, patience: float = 20.0) -> None:
        """Stop a service: its command gets SIGTERM, and SIGKILL if that does not help."""
        pid = self.pid(name)
        if pid is None:
            self._read(name)
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + patience
        while self.pid(name) is not None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                deadline = time.monotonic() + 5
            time.sleep(0.02)
        for file in ("pid", "ready"):
            (self._path(name) / file).unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Stop a service and remove all of it, its state too."""
        self.stop(name)
        shutil.rmtree(self._path(name))

    def services(self) -> Iterator[Service]:
        """Yields the services by name."""
        for folder in sorted(self.folder.glob("*/service.json")):
            name = folder.parent.name
            if name.startswith("."):
                continue
            document = self._read(name)
            unit = document.get("unit")
            pid = self.pid(name)
            state = "running" if pid else "stopped"
            status = folder.parent / "status"
            if pid is None and status.exists() and status.read_text() not in ("0", "143"):
                state = "failed"
            label = str(unit.get("name")) if isinstance(unit, dict) else "-"
            yield Service(name, label, str(document.get("backend")), state, pid)
