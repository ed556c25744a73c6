"""Who may ask the viewer, and for what."""

import json
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from sagdeploy.errors import ConfigError
from sagdeploy.view.matching import SlideFinder
from sagdeploy.view.results import exhibits, read_results
from sagdeploy.view.server import listening
from sagdeploy.view.site import Site

if TYPE_CHECKING:
    from tests.view.conftest import Viewer


class Said(NamedTuple):
    """An answer."""

    status: int
    body: bytes
    response: HTTPResponse


def ask(
    viewer: "Viewer",
    address: str,
    *,
    cookie: str | None = "right",
    host: str = "",
    method: str = "GET",
) -> Said:
    """What the viewer says; `cookie` as it is given, where it is not the right one."""
    connection = HTTPConnection("127.0.0.1", viewer.port, timeout=10)
    value = viewer.token if cookie == "right" else cookie
    headers = {"Host": host or f"127.0.0.1:{viewer.port}"}
    if value is not None:
        headers["Cookie"] = f"sagdeploy_{viewer.port}={value}"
    connection.putrequest(method, address, skip_host=True)
    for name, text in headers.items():
        connection.putheader(name, text)
    connection.endheaders()
    response = connection.getresponse()
    said = Said(response.status, response.read(), response)
    connection.close()
    return said


@pytest.mark.parametrize("cookie", [None, "", "wrong", "é"])
@pytest.mark.parametrize("address", ["/", "/slides.json", "/0/tiles/0/0_0.jpg", "/nothing"])
def test_nobody_without_the_token_learns_anything(
    viewer: "Viewer", address: str, cookie: str | None
) -> None:
    assert ask(viewer, address, cookie=cookie).status == 403


def test_a_wrong_token_is_refused(viewer: "Viewer") -> None:
    assert ask(viewer, "/?token=wrong", cookie=None).status == 403


def test_the_token_becomes_a_cookie_and_leaves_the_address(viewer: "Viewer") -> None:
    said = ask(viewer, f"/?token={viewer.token}", cookie=None)
    assert (said.status, said.response.getheader("Location")) == (303, "/")
    cookie = said.response.getheader("Set-Cookie") or ""
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


def test_a_name_that_was_made_to_point_here_is_refused(viewer: "Viewer") -> None:
    assert ask(viewer, "/", host=f"evil.example:{viewer.port}").status == 421
    assert ask(viewer, "/", host=f"localhost:{viewer.port}").status == 200


@pytest.mark.parametrize(
    "address",
    [
        "/../pyproject.toml",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/site.py",
        "/0/../prediction.json",
        "/0/prediction.json",
        "/9/slide.json",
        "/999999999999/slide.json",
        "/-1/slide.json",
        "/0/7/attention.json",
        "/0/0/top/0_99.jpg",
        "/0/0/top/3_0.jpg",
        "/0/tiles/99/0_0.jpg",
        "/0/tiles/0/1_0.jpg",
        "/1/0/attention.json",
    ],
)
def test_what_is_not_in_a_table_does_not_exist(viewer: "Viewer", address: str) -> None:
    assert ask(viewer, address).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "TRACE"])
def test_it_is_only_read_from(viewer: "Viewer", method: str) -> None:
    assert ask(viewer, "/", method=method).status == 501


def test_every_answer_forbids_the_browser_what_it_need_not_do(viewer: "Viewer") -> None:
    for address in ("/", "/slides.json", "/0/thumbnail.jpg", "/nothing"):
        headers = ask(viewer, address).response
        policy = headers.getheader("Content-Security-Policy") or ""
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert headers.getheader("Cache-Control") == "no-store"
        assert headers.getheader("X-Content-Type-Options") == "nosniff"
        assert headers.getheader("Server") == "sagdeploy"


def test_a_report_is_shut_off_from_the_viewer(viewer: "Viewer") -> None:
    said = ask(viewer, "/0/0/report.html")
    assert said.status == 200
    policy = said.response.getheader("Content-Security-Policy") or ""
    assert policy.startswith("sandbox allow-scripts; default-src 'none'")


def test_no_answer_names_the_file_or_its_folder(viewer: "Viewer", slides: Path) -> None:
    for address in ("/slides.json", "/0/slide.json", "/0/0/attention.json"):
        body = ask(viewer, address).body.decode()
        assert "DOE_JANE" not in body
        assert str(slides.parent) not in body


def test_a_changed_result_is_not_shown(
    outs: tuple[Path, Path], slides: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "case-1"
    folder.mkdir()
    for file in (outs[0] / "case-1").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "tiles.csv").write_text("tampered")
    site = Site(exhibits([read_results(tmp_path)]), SlideFinder([slides]))
    with pytest.raises(ConfigError, match=r"tiles\.csv is not the file"):
        site.answer("0/0/attention.json")
    site.close()


def test_a_slide_that_is_not_there_is_said_to_be_missing(
    outs: tuple[Path, Path], painted: Path
) -> None:
    site = Site(exhibits([read_results(outs[0])]), SlideFinder([painted]))
    found = site.answer("0/slide.json")
    assert found
    assert json.loads(found.body)["found"] is False
    assert site.answer("0/tiles/9/0_0.jpg") is None
    site.close()


def test_a_port_in_use_is_said_in_one_line(viewer: "Viewer") -> None:
    site = Site((), SlideFinder([]))
    with pytest.raises(ConfigError, match="cannot be used"), listening(site, viewer.port):
        pass
