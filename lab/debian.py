"""Packages from any Debian suite, without installing them: a private apt root for each release.

The host's apt is not touched: the sources list, state and cache are ours. Signatures are checked against the
host's `debian-archive-keyring` (the one of bookworm knows the keys of every suite here). How to reach the
archive (proxies and such) is taken from the host's own apt configuration.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from lab.cache import LabUnavailable, locked, made_once, program, root

_ARCHIVE = "http://deb.debian.org/debian"
_SECURITY = "http://deb.debian.org/debian-security"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

SUITES: dict[str, list[tuple[str, str]]] = {
    "bullseye": [(_ARCHIVE, "bullseye"), (_SECURITY, "bullseye-security")],
    "bookworm": [(_ARCHIVE, "bookworm"), (_SECURITY, "bookworm-security")],
    "bookworm-backports": [(_ARCHIVE, "bookworm-backports")],
    "trixie": [(_ARCHIVE, "trixie"), (_SECURITY, "trixie-security")],
    "trixie-backports": [(_ARCHIVE, "trixie-backports")],
    "sid": [(_ARCHIVE, "sid")],
}
"""Suite name -> the (archive, distribution) pairs it is put together from; the newest version wins."""

# A test kernel has no use for the hardware a virtual machine never has; these are most of a package's size.
_LEFT_OUT = (
    "drivers/gpu",
    "drivers/media",
    "drivers/infiniband",
    "drivers/net/wireless",
    "drivers/net/ethernet/mellanox",
    "drivers/staging",
    "drivers/iio",
    "drivers/hwmon",
    "drivers/input",
    "drivers/isdn",
    "drivers/usb",
    "drivers/accel",
    "drivers/comedi",
    "drivers/bluetooth",
    "sound",
)


class Suite:
    """One Debian suite's packages.

    Args:
        name: A key of `SUITES`.
    """

    def __init__(self, name: str) -> None:
        if name not in SUITES:
            raise LabUnavailable(f"no such Debian suite: {name} (known: {', '.join(SUITES)})")
        self.name = name
        self.folder = root() / "apt" / name
        self._just_updated = False

    def refresh(self) -> None:
        """Reads the suite's package lists anew (`apt-get update` in the private root)."""
        with locked(f"apt-{self.name}"):
            self._update()

    def refresh_if_old(self) -> bool:
        """Reads the package lists anew unless this object did; returns whether it did so now."""
        if self._just_updated:
            return False
        self.refresh()
        return True

    def newest(self, pattern: str) -> str:
        """The package of the highest version among those whose whole name matches a regular expression."""
        self._ensure()
        names = [name for name in self._run("apt-cache", "pkgnames").split() if re.fullmatch(pattern, name)]
        if not names:
            raise LabUnavailable(f"Debian {self.name} has no package named like {pattern}")
        return max(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])

    def kernel_packages(self, package: str) -> list[str]:
        """The packages with a kernel's files: a kernel (meta)package and those it depends on, in turn.

        Later Debian releases split a kernel into linux-image-*, linux-binary-*, linux-base-* and
        linux-modules-*. Metapackages, which have no files, are left out.
        """
        self._ensure()
        found: list[str] = []
        wanted = [package]
        while wanted:
            name = wanted.pop(0)
            if name in found:
                continue
            found.append(name)
            shown = self._run("apt-cache", "show", "--no-all-versions", name)
            for line in shown.splitlines():
                if line.startswith(("Depends: ", "Pre-Depends: ")):
                    for clause in line.partition(": ")[2].split(", "):
                        first = clause.split(" ")[0]
                        if re.match(r"linux-(image|binary|base|modules)-", first):
                            wanted.append(first)
        # An unsigned image, which no metapackage stands for, does not name its modules.
        if package.startswith("linux-binary-unsigned-"):
            found.append(package.replace("linux-binary-unsigned-", "linux-modules-"))
        return [name for name in found if re.search(r"-\d+\.\d+\.\d+", name)]

    def version(self, package: str) -> str:
        """The version of the package that would be fetched."""
        self._ensure()
        shown = self._run("apt-cache", "show", "--no-all-versions", package)
        return next(line.partition(": ")[2] for line in shown.splitlines() if line.startswith("Version: "))

    def unpacked(self, package: str, only: tuple[str, ...] = ()) -> Path:
        """Folder with a package's files, fetched and unpacked once.

        Args:
            package: The package's name.
            only: When given, tar patterns of the members wanted (for large packages).
        """
        self._ensure()
        version = self.version(package).replace(":", "%3a")

        def make(folder: Path) -> None:
            folder.mkdir()
            excluded = [f"--exclude=./*lib/modules/*/kernel/{part}" for part in _LEFT_OUT]
            wanted = ["--wildcards", *only] if only else []
            with tempfile.TemporaryDirectory(dir=folder.parent) as downloads:
                self._run("apt-get", "-q", "download", package, cwd=Path(downloads))
                (deb,) = Path(downloads).glob("*.deb")
                unpack = ["tar", "-x", "-C", str(folder), *excluded, *wanted]
                with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as reader:
                    subprocess.run(unpack, stdin=reader.stdout, check=True)

        return made_once(root() / "packages" / f"{package}_{version}", make)

    def _ensure(self) -> None:
        if (self.folder / "updated").exists():
            return
        with locked(f"apt-{self.name}"):
            if not (self.folder / "updated").exists():
                self._update()

    def _update(self) -> None:
        for part in ("state/lists/partial", "cache/archives/partial", "etc/parts"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / "state/status").touch()
        sources = [
            f"deb [arch=amd64 signed-by={_KEYRING}] {archive} {distribution} main\n"
            for archive, distribution in SUITES[self.name]
        ]
        (self.folder / "etc/sources.list").write_text("".join(sources))
        network = self._output(["apt-config", "dump", "--no-empty", "Acquire"])
        network = "".join(line + "\n" for line in network.splitlines() if "::IndexTargets" not in line)
        (self.folder / "etc/apt.conf").write_text(
            network
            + f'Dir::State "{self.folder}/state";\n'
            + f'Dir::State::status "{self.folder}/state/status";\n'
            + f'Dir::Cache "{self.folder}/cache";\n'
            + f'Dir::Etc "{self.folder}/etc";\n'
            + 'Dir::Etc::parts "parts"; Dir::Etc::sourceparts "parts";\n'
            + 'Dir::Etc::preferences "none"; Dir::Etc::preferencesparts "parts";\n'
            + 'APT::Architecture "amd64"; APT::Architectures { "amd64"; };\n'
            + 'APT::Sandbox::User "root"; Acquire::Languages "none";\n'
        )
        # By default apt-get takes a list that could not be fetched for a mere warning.
        self._run("apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update")
        self._just_updated = True
        (self.folder / "updated").touch()

    def _run(self, *command: str, cwd: Path | None = None) -> str:
        return self._output(["env", f"APT_CONFIG={self.folder}/etc/apt.conf", *command], cwd)

    def _output(self, command: list[str], cwd: Path | None = None) -> str:
        program("apt-get", "apt")
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
        if done.returncode:
            what = " ".join(word for word in command[-2:] if "=" not in word)
            raise LabUnavailable(f"Debian {self.name}: {what} failed: {done.stderr.strip()}")
        return done.stdout
