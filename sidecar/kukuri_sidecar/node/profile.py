"""The profile folder: one owner at a time, every file replaced atomically, nothing outside it touched."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from kukuri_sidecar.errors import ProfileInUse, StorageError

LOCK_FILE = "lock"
DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
MAX_FILE_BYTES = 4 << 20  # a profile file larger than this was not written by us


def default_data_dir() -> Path:
    """Return the platform's folder for user data + ``kukuri-sidecar``."""
    from platformdirs import user_data_path

    return user_data_path("kukuri-sidecar", appauthor=False)


@dataclass
class Profile:
    """An opened profile folder; the process that holds it is its only owner until ``close``."""

    path: Path
    _lock_fd: int

    @classmethod
    def open(cls, path: Path) -> Profile:
        """Create the folder if needed and take its lock. Blocks on the disk: call it in a thread.

        Raises ProfileInUse with the owner's ``pid``, StorageError when the disk refuses.
        """
        try:
            path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            # A lock lives in the kernel: it ends with its owner, however that ended.
            fd = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | _NOFOLLOW | _CLOEXEC, FILE_MODE)
        except OSError as exc:
            raise StorageError(f"cannot open the profile folder: {exc.strerror}", operation="open") from exc
        if not _try_lock(fd):
            owner = os.read(fd, 32).decode("ascii", "replace").strip()
            os.close(fd)
            pid = int(owner) if owner.isdigit() else None
            raise ProfileInUse("another process owns this profile", pid=pid)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        return cls(path, fd)

    def close(self) -> None:
        """Give the profile free for another process."""
        os.close(self._lock_fd)

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, None when it does not exist; StorageError otherwise."""
        try:
            fd = os.open(self.path / name, os.O_RDONLY | _NOFOLLOW | _CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise StorageError(f"cannot read {name}: {exc.strerror}", operation="read") from exc
        with os.fdopen(fd, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise StorageError(f"{name} is larger than {MAX_FILE_BYTES} bytes", operation="read")
        return data

    def write(self, name: str, data: bytes) -> None:
        """Replace a file: after a crash the old or the new bytes are there, never a mixture."""
        target = self.path / name
        temporary = self.path / f".{name}.{os.getpid()}.tmp"
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NOFOLLOW | _CLOEXEC, FILE_MODE)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)  # only fsync reports a full disk
            temporary.replace(target)
            _sync_directory(self.path)
        except OSError as exc:
            temporary.unlink(missing_ok=True)
            raise StorageError(f"cannot write {name}: {exc.strerror}", operation="write") from exc

    def set_aside(self, name: str) -> str:
        """Rename a corrupt cache file and return its new name; the next write starts anew."""
        aside = f"{name}.corrupt"
        try:
            (self.path / name).replace(self.path / aside)
        except OSError as exc:
            raise StorageError(f"cannot move {name} aside: {exc.strerror}", operation="rename") from exc
        return aside


_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)

if sys.platform == "win32":

    def _try_lock(fd: int) -> bool:
        import msvcrt

        try:
            os.lseek(fd, 1 << 20, os.SEEK_SET)  # beyond the pid: Windows locks forbid reading too
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
            os.lseek(fd, 0, os.SEEK_SET)
        except OSError:
            os.lseek(fd, 0, os.SEEK_SET)
            return False
        return True

    def _sync_directory(path: Path) -> None:
        """Windows has no directory fsync; the rename is journalled."""

else:

    def _try_lock(fd: int) -> bool:
        import fcntl

        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _sync_directory(path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | _CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
