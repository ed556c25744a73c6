"""Doctor finds what is wrong, and says what mends it."""

from pathlib import Path

from sagdeploy.doctor import Check, examine, exit_code


def named(checks: tuple[Check, ...], name: str) -> Check:
    (check,) = [check for check in checks if check.name == name]
    return check


def test_a_good_installation_passes(repository: Path) -> None:
    checks = examine(None, repository)
    assert {check.status for check in checks} == {"PASS"}
    assert "benign" in named(checks, "model sag").found
    assert exit_code(checks) == 0


def test_a_missing_repository_is_only_a_warning(tmp_path: Path) -> None:
    checks = examine(None, tmp_path / "none")
    assert named(checks, "model repository").status == "WARN"
    assert exit_code(checks) == 0


def test_a_server_that_is_not_there_fails(repository: Path) -> None:
    checks = examine("localhost:9", repository)
    assert named(checks, "server").status == "FAIL"
    assert exit_code(checks) == 6


def test_the_first_failure_decides_the_exit_code() -> None:
    checks = [Check("WARN", "a", ""), Check("FAIL", "b", "", "", 5), Check("FAIL", "c", "", "", 6)]
    assert exit_code(checks) == 5
