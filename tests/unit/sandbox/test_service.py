"""What a unit file says about its process."""

from __future__ import annotations

from pathlib import Path

import pytest

from virtscope.errors import GuestNotFound, UsageError
from virtscope.sandbox import service

UNIT = """\
[Unit]
Description=x
ExecStart=/not/this

[Service]
Environment="OPTS=-a -b" WHERE=%S/%p
EnvironmentFile=-/no/such/file
ExecStart=/old
ExecStart=
ExecStart=-/usr/bin/server --name %i \\
    --dir ${WHERE} $OPTS
User=nobody
StateDirectory=server server/%i
RuntimeDirectory=server
WorkingDirectory=-/srv
"""


def test_unit_from_a_template(tmp_path: Path) -> None:
    (tmp_path / "server@.service").write_text(UNIT)
    unit = service.read_unit("server@one", (str(tmp_path),))
    assert unit.name == "server@one.service"
    assert unit.argv == ("/usr/bin/server", "--name", "one", "--dir", "/var/lib/server", "-a", "-b")
    assert (unit.user, unit.folder) == ("nobody", "/srv")
    assert unit.state == ("/var/lib/server", "/var/lib/server/one")
    assert unit.runtime == ("/run/server",)


def test_drop_ins_change_it(tmp_path: Path) -> None:
    (tmp_path / "a.service").write_text("[Service]\nExecStart=/bin/a\nUser=root\n")
    (tmp_path / "a.service.d").mkdir()
    (tmp_path / "a.service.d/user.conf").write_text("[Service]\nUser=nobody\n")
    assert service.read_unit("a", (str(tmp_path),)).user == "nobody"


def test_what_is_no_service(tmp_path: Path) -> None:
    (tmp_path / "b.service").write_text("[Service]\nType=oneshot\n")
    (tmp_path / "c.service").write_text("[Service]\nExecStart=/bin/c\nStateDirectory=../../etc\n")
    with pytest.raises(GuestNotFound):
        service.read_unit("nothing", (str(tmp_path),))
    with pytest.raises(UsageError):
        service.read_unit("b", (str(tmp_path),))
    with pytest.raises(UsageError):
        service.read_unit("c", (str(tmp_path),))


def test_names_cannot_leave_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    store = service.ServiceStore()
    for name in ("../x", "", "/etc", ".hidden"):
        with pytest.raises(UsageError):
            store.delete(name)
