"""The profile folder: one owner at a time, every file replaced atomically, nothing outside it touched."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kukuri_sidecar.errors import ProfileInUse, StorageError

LOCK_FILE = "lock"
DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
MAX_FILE_BYTES = 8 << 20  # 1024 remembered topics with 64 members each take 6 MB; more was not written by us
TEMPORARY_SUFFIX = ".sidecar-tmp"


def default_data_dir() -> Path:
    """Return the platform's folder for user data + ``kukuri-sidecar``."""
    from platformdirs import user_data_path

    return user_data_path("kukuri-sidecar", appauthor=False)


@dataclass
class Profile:
    """An opened profile folder; the process that holds it is its only owner until ``close``."""

    path: Path
    _lock_fd: int
    _serials: Iterator[int] = field(default_factory=itertools.count)  # no two writers share a temporary file

    @classmethod
    def open(cls, path: Path) -> Profile:
        """Create the folder if needed and take its lock. Blocks on the disk: call it in a thread.

        Raises ProfileInUse with the owner's ``pid``, StorageError when the disk refuses or when the folder is
        not ours alone. What a crashed owner left half written is removed.
        """
        try:
            path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            path = Path(os.path.realpath(path))  # a folder may be a link, as people move data to other disks
            _make_private(path)
            # A lock lives in the kernel: it ends with its owner, however that ended.
            fd = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | _SAFELY, FILE_MODE)
        except (OSError, ValueError) as exc:  # ValueError: no path at all, as with a NUL in it
            raise StorageError(f"cannot open the profile folder: {_why(exc)}", operation="open") from exc
        try:
            _set_file_mode(fd)
            if not _try_lock(fd):
                raise ProfileInUse("another process owns this profile", pid=_read_pid(fd))
            _write_pid(fd)
            for leftover in path.glob(f".*{TEMPORARY_SUFFIX}"):
                leftover.unlink(missing_ok=True)
        except OSError as exc:
            os.close(fd)
            raise StorageError(f"cannot lock the profile folder: {_why(exc)}", operation="open") from exc
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd)

    def close(self) -> None:
        """Give the profile free for another process; a second call does nothing."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.ftruncate(fd, 0)  # nobody shall read our pid while the next owner writes its own
            os.close(fd)

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, None when it does not exist; StorageError otherwise."""
        found = self.read_with_status(name)
        return found[0] if found else None

    def read_with_status(self, name: str) -> tuple[bytes, os.stat_result] | None:
        """Return a file's bytes and the status of that very file, else as ``read``."""
        try:
            fd = os.open(self.path / name, os.O_RDONLY | _NONBLOCK | _SAFELY)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise StorageError(f"cannot read {name}: {_why(exc)}", operation="read") from exc
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            with os.fdopen(fd, "rb", closefd=False) as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as exc:
            raise StorageError(f"cannot read {name}: {_why(exc)}", operation="read") from exc
        finally:
            os.close(fd)
        if len(data) > MAX_FILE_BYTES:
            raise StorageError(f"{name} is larger than {MAX_FILE_BYTES} bytes", operation="read")
        return data, status

    def write(self, name: str, data: bytes) -> None:
        """Replace a file: after a crash the old or the new bytes are there, never a mixture.

        StorageError when the disk refuses: then the old bytes are there, or the new ones if the very last
        step failed.
        """
        if len(data) > MAX_FILE_BYTES:
            raise StorageError(f"{name} would be larger than {MAX_FILE_BYTES} bytes", operation="write")
        temporary = self.path / f".{name}.{next(self._serials)}{TEMPORARY_SUFFIX}"
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY, FILE_MODE)
            with os.fdopen(fd, "wb") as file:
                _set_file_mode(fd)
                file.write(data)
                file.flush()
                os.fsync(fd)  # only fsync reports a full disk
            temporary.replace(self.path / name)
            _sync_directory(self.path)
        except OSError as exc:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise StorageError(f"cannot write {name}: {_why(exc)}", operation="write") from exc

    def set_aside(self, name: str) -> str:
        """Rename a corrupt cache file and return its new name; the next write starts anew."""
        aside = f"{name}.corrupt"
        try:
            (self.path / name).replace(self.path / aside)
        except OSError as exc:
            raise StorageError(f"cannot move {name} aside: {_why(exc)}", operation="rename") from exc
        return aside


def _why(exc: OSError | ValueError) -> str:
    """Return the reason without the path: texts of errors reach reports that people paste."""
    return (exc.strerror if isinstance(exc, OSError) else None) or type(exc).__name__


def _read_pid(fd: int) -> int | None:
    os.lseek(fd, 0, os.SEEK_SET)
    first_line = os.read(fd, 32).partition(b"\n")[0].strip()
    return int(first_line) if first_line.isdigit() else None


def _write_pid(fd: int) -> None:
    line = b"%d\n" % os.getpid()
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, line)  # before the cut: writing over old bytes needs no room on a full disk
    os.ftruncate(fd, len(line))


_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # a FIFO in place of a file must not stop us
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

if sys.platform == "win32":

    def _try_lock(fd: int) -> bool:
        import msvcrt

        try:
            os.lseek(fd, 1 << 20, os.SEEK_SET)  # beyond the pid: Windows locks forbid reading too
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _make_private(path: Path) -> None:
        """Windows: the user's own data folder is closed to others by its access list."""

    def _set_file_mode(fd: int) -> None:
        """Windows: the folder's access list applies."""

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

    def _make_private(path: Path) -> None:
        """Close the folder to others. One that others own or share (sticky, as /tmp) cannot be ours (L2)."""
        status = path.stat()
        if status.st_uid != os.geteuid() or status.st_mode & stat.S_ISVTX:
            raise OSError(errno.EPERM, "it is not a folder of ours alone")
        if stat.S_IMODE(status.st_mode) != DIRECTORY_MODE:
            path.chmod(DIRECTORY_MODE)

    def _set_file_mode(fd: int) -> None:
        os.fchmod(fd, FILE_MODE)  # whatever the umask says

    def _sync_directory(path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | _SAFELY)
        try:
            os.fsync(fd)
        except OSError as exc:
            if exc.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
                raise
        finally:
            os.close(fd)
