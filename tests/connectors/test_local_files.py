"""Files of a folder by their names: which belong to an operating system."""

from pathlib import Path

import pytest

from pipelines.connectors.local_files import OF_THE_SYSTEM, is_of_the_system, skip_reason


@pytest.mark.parametrize(
    "name",
    [
        "._x.json",
        "deep/._x.png",
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        "Desktop.ini",
        "~$x.json",
        ".x.json.swp",
        "x.json~",
        ".#x.json",
        "#x.json#",
        ".~lock.x.json#",
        "__MACOSX/deep/x.json",
    ],
)
def test_a_file_of_the_system_is_known_by_its_name(name: str, tmp_path: Path) -> None:
    assert is_of_the_system(name)
    assert skip_reason(tmp_path / name, tmp_path) == OF_THE_SYSTEM


@pytest.mark.parametrize("name", ["x.json", ".x.json", "_x.json", "a~b.json", "$x.json", "MACOSX/x.json", "x._y.json"])
def test_other_files_are_not(name: str, tmp_path: Path) -> None:
    assert not is_of_the_system(name)
    assert skip_reason(tmp_path / name, tmp_path) is None
