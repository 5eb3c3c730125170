from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kukuri_sidecar.errors import ProfileInUse, StorageError
from kukuri_sidecar.node import profile as profile_module
from kukuri_sidecar.node.profile import LOCK_FILE, MAX_FILE_BYTES, TEMPORARY_SUFFIX, Profile, default_data_dir

SOURCE = Path(__file__).parents[2] / "sidecar"
posix = pytest.mark.skipif(sys.platform == "win32", reason="modes, owners and links of POSIX")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "profile"


@pytest.fixture
def profile(folder: Path) -> Iterator[Profile]:
    opened = Profile.open(folder)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def no_descriptor_leaks() -> Iterator[None]:
    """Every way out closes what it opened."""
    before = _next_descriptor()
    yield
    assert _next_descriptor() == before


def _next_descriptor() -> int:
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)
    return fd


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _child(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Run ``script`` in a real process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


HOLD = """
    import sys
    from pathlib import Path
    from kukuri_sidecar.node.profile import Profile
    profile = Profile.open(Path(sys.argv[1]))
    print("held", flush=True)
    sys.stdin.read()
    profile.close()
"""


# --- one owner -----------------------------------------------------------------------------------------


def _holder(folder: Path) -> subprocess.Popen[str]:
    child = _child(HOLD, folder)
    assert child.stdout
    assert child.stdout.readline() == "held\n"
    return child


def test_a_profile_held_by_another_process_is_in_use(folder: Path) -> None:
    with _holder(folder) as child:
        for _ in range(2):
            with pytest.raises(ProfileInUse) as caught:
                Profile.open(folder)
            assert caught.value.details == {"pid": child.pid}
        child.communicate("")
    assert child.returncode == 0
    Profile.open(folder).close()


@posix
def test_the_lock_ends_with_a_killed_owner(folder: Path) -> None:
    with _holder(folder) as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
        Profile.open(folder).close()


def test_the_same_process_is_no_second_owner_either(profile: Profile, folder: Path) -> None:
    with pytest.raises(ProfileInUse) as caught:
        Profile.open(folder)
    assert caught.value.details == {"pid": os.getpid()}


def test_closing_gives_the_profile_free_and_is_harmless_twice(folder: Path) -> None:
    first = Profile.open(folder)
    first.close()
    second = Profile.open(folder)
    first.close()  # must not close a descriptor that is somebody else's by now
    with pytest.raises(ProfileInUse):
        Profile.open(folder)
    second.close()


@pytest.mark.parametrize("content", [b"", b"\n", b"not a pid\n", b"\xff\xfe", b"-5\n", b"9" * 64])
def test_a_lock_without_a_pid_is_still_a_lock(profile: Profile, folder: Path, content: bytes) -> None:
    (folder / LOCK_FILE).write_bytes(content)
    with pytest.raises(ProfileInUse) as caught:
        Profile.open(folder)
    assert caught.value.details["pid"] in (None, int("9" * 32))


def test_an_old_longer_pid_leaves_no_digits_behind(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / LOCK_FILE).write_bytes(b"99999999999999\n")
    opened = Profile.open(folder)
    assert (folder / LOCK_FILE).read_bytes() == b"%d\n" % os.getpid()
    opened.close()
    assert (folder / LOCK_FILE).read_bytes() == b""


def _failing(code: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@posix
@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("os.mkdir", errno.EROFS),
        ("os.write", errno.ENOSPC),
        ("os.ftruncate", errno.EIO),
        ("os.fchmod", errno.EPERM),
        ("fcntl.flock", errno.ENOLCK),
    ],
)
def test_a_disk_that_refuses_the_lock_is_named_and_holds_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, target: str, code: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(target, _failing(code))
        with pytest.raises(StorageError) as caught:
            Profile.open(folder)
    assert caught.value.details == {"operation": "open"}
    assert os.strerror(code) in caught.value.message
    assert str(folder) not in caught.value.message  # texts end in reports that people paste
    Profile.open(folder).close()


# --- closed to others ----------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
def test_folder_and_files_are_ours_alone_whatever_the_umask(folder: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        opened = Profile.open(folder)
        opened.write("file.json", b"1")
        opened.write("file.json", b"2")
    finally:
        os.umask(before)
    assert _mode(folder) == 0o700
    assert {name.name: _mode(name) for name in folder.iterdir()} == {LOCK_FILE: 0o600, "file.json": 0o600}
    opened.close()


@posix
@pytest.mark.parametrize("mode", [0o755, 0o775, 0o777, 0o500])
def test_an_open_folder_is_closed_to_others(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    Profile.open(folder).close()
    assert _mode(folder) == 0o700


@posix
def test_a_shared_folder_is_refused_and_left_alone(folder: Path) -> None:
    """As /tmp would be: closing it to others would harm the machine."""
    folder.mkdir()
    folder.chmod(0o1777)
    with pytest.raises(StorageError, match="not a folder of ours alone"):
        Profile.open(folder)
    assert _mode(folder) == 0o1777


@posix
def test_a_folder_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(StorageError, match="not a folder of ours alone"):
        Profile.open(folder)
    assert list(folder.iterdir()) == []


@posix
def test_a_write_closes_a_file_that_was_open_to_others(profile: Profile, folder: Path) -> None:
    (folder / "file").write_bytes(b"old")
    (folder / "file").chmod(0o666)
    profile.write("file", b"new")
    assert _mode(folder / "file") == 0o600


# --- nothing outside the folder is touched -------------------------------------------------------------


@posix
def test_links_in_the_folder_are_not_followed(profile: Profile, folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"theirs")
    (folder / "file").symlink_to(outside)
    with pytest.raises(StorageError) as caught:
        profile.read("file")
    assert caught.value.details == {"operation": "read"}
    profile.write("file", b"ours")
    assert (outside.read_bytes(), profile.read("file")) == (b"theirs", b"ours")


@posix
def test_a_dangling_link_is_no_absent_file(profile: Profile, folder: Path, tmp_path: Path) -> None:
    (folder / "file").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError):
        profile.read("file")


@posix
def test_a_lock_that_is_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"theirs")
    folder.mkdir(mode=0o700)
    (folder / LOCK_FILE).symlink_to(outside)
    with pytest.raises(StorageError):
        Profile.open(folder)
    assert outside.read_bytes() == b"theirs"


@posix
def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    """People move their data to other disks; what counts is the folder behind the link."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)
    opened = Profile.open(folder)
    opened.write("file", b"x")
    opened.close()
    assert (elsewhere / "file").read_bytes() == b"x"


@posix
def test_what_is_no_file_is_refused_without_waiting(profile: Profile, folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "directory").mkdir()
    for name in ("fifo", "directory"):
        with pytest.raises(StorageError, match="not a regular file"):
            profile.read(name)
    with pytest.raises(StorageError):
        profile.write("directory", b"x")
    assert not list(folder.glob(f".*{TEMPORARY_SUFFIX}"))


@posix
def test_a_folder_that_cannot_be_one_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in ("file", "file/below", "loop", "loop/below", "a\0b", "x" * 300, "\ud800"):
        with pytest.raises(StorageError) as caught:
            Profile.open(tmp_path / path)
        assert caught.value.details == {"operation": "open"}
        caught.value.message.encode()


# --- files ---------------------------------------------------------------------------------------------


def test_an_absent_file_is_none(profile: Profile) -> None:
    assert profile.read("file") is None
    assert profile.read_with_status("file") is None


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.binary(max_size=50)), max_size=6))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_last_is_read(profile: Profile, writes: list[tuple[str, bytes]]) -> None:
    for name, data in writes:
        profile.write(name, data)
    for name, data in dict(writes).items():
        assert profile.read(name) == data
    assert not list(profile.path.glob(f".*{TEMPORARY_SUFFIX}"))


def test_a_file_has_a_most(profile: Profile, folder: Path) -> None:
    for size in (MAX_FILE_BYTES - 1, MAX_FILE_BYTES):
        profile.write("file", bytes(size))
        assert len(profile.read("file") or b"") == size
    with pytest.raises(StorageError) as caught:
        profile.write("file", bytes(MAX_FILE_BYTES + 1))  # it could never be read again
    assert caught.value.details == {"operation": "write"}
    assert len(profile.read("file") or b"") == MAX_FILE_BYTES
    with (folder / "file").open("ab") as file:
        file.write(b"x")
    with pytest.raises(StorageError) as caught:
        profile.read("file")
    assert caught.value.details == {"operation": "read"}


@posix
def test_a_read_that_fails_is_a_storage_error(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    profile.write("file", b"x")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", _failing(errno.EIO))
        with pytest.raises(StorageError) as caught:
            profile.read("file")
    assert caught.value.details == {"operation": "read"}


def test_a_damaged_file_is_moved_aside(profile: Profile, folder: Path) -> None:
    for content in (b"first", b"second"):
        profile.write("cache.json", content)
        assert profile.set_aside("cache.json") == "cache.json.corrupt"
        assert profile.read("cache.json") is None
        assert profile.read("cache.json.corrupt") == content
    with pytest.raises(StorageError) as caught:
        profile.set_aside("cache.json")
    assert caught.value.details == {"operation": "rename"}


# --- crashes and full disks ----------------------------------------------------------------------------


def _fail_at(patch: pytest.MonkeyPatch, step: str, code: int) -> None:
    """Let one step of ``write`` fail: ``fsync 2`` is the folder's."""
    target, _, call = step.partition(" ")
    original, calls = getattr(os, target), 0

    def maybe(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(call or 1):
            raise OSError(code, os.strerror(code))
        return original(*args, **kwargs)

    patch.setattr(os, target, maybe)


@posix
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("step", ["open", "fdopen", "fchmod", "fsync", "replace", "open 2", "fsync 2"])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_step_that_fails_leaves_the_old_or_the_new(
    profile: Profile, folder: Path, monkeypatch: pytest.MonkeyPatch, old: bytes | None, step: str, code: int
) -> None:
    if old:
        profile.write("file", old)
    with monkeypatch.context() as patch:
        _fail_at(patch, step, code)
        with pytest.raises(StorageError) as caught:
            profile.write("file", b"new")
    assert caught.value.details == {"operation": "write"}
    assert caught.value.retryable
    assert os.strerror(code) in caught.value.message
    assert profile.read("file") == (b"new" if step.endswith("2") else old)
    assert sorted(path.name for path in folder.iterdir() if path.name != "file") == [LOCK_FILE]
    profile.write("file", b"later")
    assert profile.read("file") == b"later"


@posix
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_without_folder_sync_will_do(
    profile: Profile, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    with monkeypatch.context() as patch:
        _fail_at(patch, "fsync 2", code)
        profile.write("file", b"new")
    assert profile.read("file") == b"new"


@posix
def test_an_error_while_cleaning_up_does_not_hide_the_first(
    profile: Profile, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _failing(errno.ENOSPC))
        patch.setattr(os, "unlink", _failing(errno.EROFS))
        with pytest.raises(StorageError, match=os.strerror(errno.ENOSPC)):
            profile.write("file", b"new")
    assert profile.read("file") is None
    assert len(list(folder.glob(f".*{TEMPORARY_SUFFIX}"))) == 1
    profile.close()
    Profile.open(folder).close()
    assert list(folder.glob(f".*{TEMPORARY_SUFFIX}")) == []


DIE = """
    import os, sys
    from pathlib import Path
    from kukuri_sidecar.node.profile import Profile
    profile = Profile.open(Path(sys.argv[1]))
    name, when = sys.argv[2:]
    original = getattr(os, name)
    def die(*args, **kwargs):
        if when == "after":
            original(*args, **kwargs)
        os._exit(9)
    setattr(os, name, die)
    profile.write("file", b"new" * 100_000)
"""


@posix
@pytest.mark.parametrize(
    ("step", "when", "survives"),
    [
        ("open", "after", "old"),
        ("fchmod", "after", "old"),
        ("fsync", "before", "old"),
        ("fsync", "after", "old"),
        ("replace", "before", "old"),
        ("replace", "after", "new"),
    ],
)
def test_a_killed_writer_leaves_the_old_or_the_new(folder: Path, step: str, when: str, survives: str) -> None:
    """No word of ours runs after the kill: what is left is what the next start finds."""
    with_old = Profile.open(folder)
    with_old.write("file", b"old")
    with_old.close()
    with _child(DIE, folder, step, when) as child:
        child.communicate()
    assert child.returncode == 9
    found = Profile.open(folder)
    assert found.read("file") == (b"old" if survives == "old" else b"new" * 100_000)
    assert sorted(path.name for path in folder.iterdir()) == ["file", LOCK_FILE]  # no half-written secrets
    found.close()


FULL = """
    import resource, sys
    from pathlib import Path
    from kukuri_sidecar.errors import StorageError
    from kukuri_sidecar.node.profile import Profile
    profile = Profile.open(Path(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        profile.write("file", b"new" * 100_000)
    except StorageError as exc:
        print(exc.message, flush=True)
"""


@posix
def test_a_write_that_the_kernel_cuts_short_leaves_the_old(profile: Profile, folder: Path) -> None:
    profile.write("file", b"old")
    profile.close()
    with _child(FULL, folder) as child:
        output, _ = child.communicate()
    assert output == f"cannot write file: {os.strerror(errno.EFBIG)}\n"
    assert (folder / "file").read_bytes() == b"old"
    assert sorted(path.name for path in folder.iterdir()) == ["file", LOCK_FILE]


# --- where it is by default ----------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="the XDG directories")
def test_the_default_is_the_platforms_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / "kukuri-sidecar"
    assert not default_data_dir().exists()
    assert profile_module.DIRECTORY_MODE == 0o700
