"""Doctor finds what is wrong, and says what mends it."""

from pathlib import Path

import openslide
import pytest

from sagdeploy.doctor import Check, examine, exit_code
from tests.serving.faultserver import FaultServer


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


@pytest.mark.parametrize(
    ("version", "status"), [("4.0.0", "FAIL"), ("4.0.1-nightly.20260901", "PASS")]
)
def test_openslide_is_judged_as_it_is_where_slides_are_opened(
    version: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openslide, "__library_version__", version)
    check = named(examine(None, tmp_path / "none"), "OpenSlide")
    assert check.status == status
    assert check.fix == ("pip install --upgrade openslide-bin" if status == "FAIL" else "")


@pytest.mark.parametrize(("version", "status"), [("2.51.0", "WARN"), ("2.69.0", "PASS")])
def test_a_server_with_known_holes_is_warned_of(version: str, status: str, tmp_path: Path) -> None:
    with FaultServer() as server:
        server.version = version
        server.faults.append(lambda handler: handler.answer_json(200, []))  # it has no models
        checks = examine(server.url, tmp_path / "none")
    assert (named(checks, "Triton").status, named(checks, "Triton").found) == (status, version)
    assert named(checks, "server").status == "FAIL"
