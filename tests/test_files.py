"""A file is written whole or not at all, under a name that is safe."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagdeploy.errors import ConfigError, OutputError
from sagdeploy.files import (
    SAFE_NAME,
    canonical_json,
    check_name,
    name_from,
    sha256_of,
    sweep,
    whole_folder,
    write_bytes,
    write_json,
    write_whole,
)


def test_a_failure_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_bytes(path, b"old")
    with pytest.raises(TypeError), write_whole(path) as partial:
        partial.write_bytes([b"new, but not bytes"])  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_folder_that_cannot_be_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_bytes(tmp_path / "file" / "result.json", b"")


def test_json_is_canonical(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "ä"})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": "ä",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_the_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a").startswith("ba7816bf8f01cfea")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a\0", "-a", "a" * 65, "a b"])
def test_names_that_could_leave_a_folder_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a file name"):
        check_name(name, "model name")


@given(st.text())
def test_any_text_becomes_a_safe_name(text: str) -> None:
    assert SAFE_NAME.fullmatch(name_from(text))


@given(st.from_regex(SAFE_NAME, fullmatch=True))
def test_a_safe_name_stays(name: str) -> None:
    assert name_from(name) == check_name(name, "name") == name


@given(st.text(), st.text())
def test_two_texts_do_not_share_a_name(one: str, other: str) -> None:
    assert (name_from(one) == name_from(other)) == (one == other)


@given(st.dictionaries(st.text(), st.integers()))
def test_canonical_json_says_what_it_was_given(value: dict[str, int]) -> None:
    assert json.loads(canonical_json(value)) == value


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        with whole_folder(tmp_path / "results") as partial:
            write_bytes(partial / content.decode(), content)
    assert os.listdir(tmp_path) == ["results"]
    assert os.listdir(tmp_path / "results") == ["new"]


def test_a_failure_while_a_folder_is_written_leaves_what_was_there(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "results") as partial:
        write_bytes(partial / "old", b"")
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "results") as partial:
        raise RuntimeError
    assert os.listdir(tmp_path) == ["results"]
    assert os.listdir(tmp_path / "results") == ["old"]


@pytest.mark.parametrize(("left", "kept"), [({"old", "new"}, "new"), ({"old"}, "old")])
def test_a_replacement_that_was_cut_off_between_its_steps_is_finished(
    left: set[str], kept: str, tmp_path: Path
) -> None:
    for name in left:
        place = tmp_path / ".partial-x" / name / "results"
        place.mkdir(parents=True)
        (place / name).touch()
    sweep(tmp_path)
    assert os.listdir(tmp_path) == ["results"]
    assert os.listdir(tmp_path / "results") == [kept]


def test_sweeping_touches_nothing_that_has_its_name(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / ".partial-x" / "new" / "results").mkdir(parents=True)
    (tmp_path / ".partial-y.csv").touch()
    (tmp_path / ".partial-z").symlink_to(tmp_path / "results")
    sweep(tmp_path)
    assert os.listdir(tmp_path) == ["results"]


@pytest.mark.parametrize(("mask", "file_mode"), [(0o077, 0o600), (0o027, 0o640), (0o002, 0o664)])
def test_who_may_read_is_for_the_umask_to_say(mask: int, file_mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "new" / "a.json", b"")
        with whole_folder(tmp_path / "results") as partial:
            write_bytes(partial / "a.json", b"")
    finally:
        os.umask(before)
    for folder in ("new", "results"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o777 & ~mask
        assert (tmp_path / folder / "a.json").stat().st_mode & 0o777 == file_mode


def test_a_signal_while_a_folder_is_tidied_up_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmtree = shutil.rmtree

    def interrupt(*_: object, **__: object) -> None:
        monkeypatch.setattr(shutil, "rmtree", rmtree)
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", interrupt)
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "results"):
        pass
    assert os.listdir(tmp_path) == ["results"]
