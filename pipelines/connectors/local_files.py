"""Walks a folder that is a source: the files by name, those of an operating system, and the symbolic links out of it.

No link to a folder is followed, and no file is opened: what is in it is for `assets`.
"""

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from pipelines.errors import AtlasError

SYSTEM_FILE = re.compile(
    r"\._.*|\.DS_Store|Icon\r|e?hthumbs.*\.db|thumbs\.db|desktop\.ini"  # of macOS and Windows
    r"|~\$.*|\.~lock\..*#|\..*\.sw[a-p]|.*~|\.#.*|#.*#",  # of editors: locks, swap files, backups
    re.IGNORECASE,
)
SYSTEM_FOLDERS = {"__MACOSX", ".Spotlight-V100", ".Trashes", ".fseventsd", "$RECYCLE.BIN", "System Volume Information"}
OF_THE_SYSTEM = "belongs to the operating system"


def is_of_the_system(name: str) -> bool:
    """Whether a file belongs to an operating system or an editor, by its path within the folder."""
    *folders, file = name.split("/")
    return bool(SYSTEM_FILE.fullmatch(file)) or not SYSTEM_FOLDERS.isdisjoint(folders)


def candidates(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The paths with one of the suffixes, and links to folders, which are not followed; sorted.

    Raises AtlasError where a folder cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise AtlasError(f"The folder cannot be listed: {error}. Nothing of this run is published; run it again later.")

    found: set[Path] = set()
    for here, folders, files in os.walk(folder, onerror=fail):
        found |= {Path(here, name) for name in (*folders, *files) if name.lower().endswith(suffixes)}
        found |= {path for name in folders if (path := Path(here, name)).is_symlink()}
    return sorted(found)


def name_of(path: Path, folder: Path) -> str:
    """The path relative to the folder; bytes of a name that are not UTF-8 are written as escapes."""
    return os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace")


def path_of(name: str, folder: Path) -> Path | None:
    """The path with a name relative to the folder; None where there is none, or a symbolic link leads to it."""
    path = folder / name
    inside = os.path.realpath(path.parent) == os.fspath((folder.resolve() / name).parent)
    return path if inside and os.path.lexists(path) else None


def skip_reason(path: Path, folder: Path) -> str | None:
    """Why a path is not read: it belongs to the operating system, or is a symbolic link whose target is missing or
    outside the folder; None for any other path.
    """
    if is_of_the_system(name_of(path, folder)):
        return OF_THE_SYSTEM
    if not path.is_symlink():
        return None
    if not path.exists():
        return "symbolic link without a target"
    return None if path.resolve().is_relative_to(folder.resolve()) else "symbolic link out of the folder"


def state_of(folder: Path, suffixes: tuple[str, ...]) -> str:
    """A digest over path, size and modification time of all candidates."""
    digest = hashlib.sha256()
    for path in candidates(folder, suffixes):
        with suppress(OSError):  # deleted since it was listed
            found = path.lstat()
            digest.update(f"{name_of(path, folder)}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    return digest.hexdigest()
