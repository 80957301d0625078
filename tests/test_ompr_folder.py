"""Files of a folder in, files of a folder out."""

from __future__ import annotations

from pathlib import Path

import pytest

from objproxy.ompr import FolderMP
from ompr_targets import Upper


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with three files, one of them in a folder of its own."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.txt", "b.md", "deep/c.txt"):
        (tmp_path / "in" / name).write_text(f"text of {name}")
    return tmp_path / "in"


def written(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_every_file_is_processed_to_the_same_place_with_a_bar(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    FolderMP(folder).process_files_mp(Upper, out, add_ext=".up", devices=[None, None], tail="!")
    assert written(out) == {
        "a.txt.up": "TEXT OF A.TXT!",
        "b.md.up": "TEXT OF B.MD!",
        "deep/c.txt.up": "TEXT OF DEEP/C.TXT!",
    }
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("include", "exclude", "recursive", "expected"),
    [
        (None, None, True, ["a.txt", "b.md", "deep/c.txt"]),
        (None, None, False, ["a.txt", "b.md"]),
        (".txt", None, True, ["a.txt", "deep/c.txt"]),
        ([".txt", ".md"], "deep", True, ["a.txt", "b.md"]),
        (".txt", ["a", "c"], True, []),
    ],
)
def test_files_are_chosen_by_parts_of_their_paths(
    folder: Path, include: object, exclude: object, recursive: bool, expected: list[str]
) -> None:
    assert list(FolderMP(folder, recursive=recursive).files(include, exclude)) == expected


def test_a_file_that_fails_is_logged_and_the_others_are_processed(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "b.md").write_text("bad")
    options = {"max_reruns": 1}
    FolderMP(folder).process_files_mp(Upper, tmp_path / "out", devices=[None], progress_bar=False, runner_options=options)
    assert set(written(tmp_path / "out")) == {"a.txt", "deep/c.txt"}
    assert "bad file" in caplog.text


def test_a_failure_can_be_raised(folder: Path, tmp_path: Path) -> None:
    (folder / "a.txt").write_text("bad")
    with pytest.raises(ValueError, match="bad file"):
        FolderMP(folder).process_files_mp(
            Upper,
            tmp_path / "out",
            devices=[None],
            raise_rww_exception=True,
            progress_bar=False,
            runner_options={"rerun_crashed": False},
        )


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="nowhere"):
        FolderMP(tmp_path / "nowhere")
    with pytest.raises(TypeError, match="include=5"):
        list(FolderMP(tmp_path).files(include=5))
