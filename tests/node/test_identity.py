from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kukuri_sidecar.errors import IdentityCorrupt, StorageError
from kukuri_sidecar.node.identity import IDENTITY_FILE, _IdentityFile, choose, from_profile
from kukuri_sidecar.node.profile import MAX_FILE_BYTES, Profile
from kukuri_sidecar.wire.keys import SecretKey

SEED = bytes(range(200, 232))
SECRET = SEED.hex()
GOOD = b'{"version":1,"secret_key_hex":"%b"}\n' % SECRET.encode()
posix = pytest.mark.skipif(sys.platform == "win32", reason="modes and owners of POSIX")


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[Profile]:
    opened = Profile.open(tmp_path / "profile")
    yield opened
    opened.close()


@pytest.fixture
def file(profile: Profile) -> Path:
    return profile.path / IDENTITY_FILE


def _assert_no_secret(error: BaseException) -> None:
    """Nothing that a log or a host could show of the error quotes the secret."""
    assert error.__cause__ is None
    assert error.__context__ is None
    shown = f"{error} {error!r} {vars(error)} {''.join(traceback.format_exception(error))}"
    for form in (SECRET, SECRET.upper(), SECRET[:16], SECRET[-16:], repr(SEED)):
        assert form not in shown


def _refusal(profile: Profile) -> IdentityCorrupt:
    """Load; the file must be refused and stay as it is, to the byte, the mode and the inode."""
    before = (profile.path / IDENTITY_FILE).read_bytes(), (profile.path / IDENTITY_FILE).stat()
    with pytest.raises(IdentityCorrupt) as caught:
        from_profile(profile)
    after = (profile.path / IDENTITY_FILE).read_bytes(), (profile.path / IDENTITY_FILE).stat()
    assert after[0] == before[0]
    assert [after[1].st_ino, after[1].st_mode, after[1].st_mtime_ns] == [
        before[1].st_ino,
        before[1].st_mode,
        before[1].st_mtime_ns,
    ]
    _assert_no_secret(caught.value)
    return caught.value


# --- first start and the next ones ---------------------------------------------------------------------


def test_the_first_start_creates_the_key_and_the_next_loads_it(profile: Profile, file: Path) -> None:
    created, origin = from_profile(profile)
    assert origin == "created"
    assert json.loads(file.read_bytes()) == {"version": 1, "secret_key_hex": created.seed.hex()}
    before = file.stat()
    loaded, origin = from_profile(profile)
    assert origin == "loaded"
    assert (loaded.seed, loaded.endpoint_id) == (created.seed, created.endpoint_id)
    assert file.stat().st_mtime_ns == before.st_mtime_ns


@posix
def test_the_file_is_ours_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        opened = Profile.open(tmp_path / "profile")
        from_profile(opened)
    finally:
        os.umask(before)
    assert (opened.path / IDENTITY_FILE).stat().st_mode & 0o777 == 0o600
    assert from_profile(opened)[1] == "loaded"
    opened.close()


def test_a_key_that_could_not_be_written_is_not_used(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else this run would be an endpoint that the next start cannot be."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StorageError):
            from_profile(profile)
    assert not (profile.path / IDENTITY_FILE).exists()
    assert from_profile(profile)[1] == "created"


def test_keys_are_fresh(profile: Profile) -> None:
    seeds = {choose(None, None)[0].seed for _ in range(8)} | {from_profile(profile)[0].seed}
    assert len(seeds) == 9


# --- where the key comes from ---------------------------------------------------------------------------


def test_the_hosts_key_wins_and_is_not_written(profile: Profile, file: Path) -> None:
    secret, origin = choose(SEED, profile)
    assert (secret.seed, origin) == (SEED, "host")
    assert not file.exists()
    assert choose(SEED, None)[1] == "host"


def test_then_the_profiles_then_one_for_this_run(profile: Profile, file: Path) -> None:
    profile.write(IDENTITY_FILE, GOOD)
    secret, origin = choose(None, profile)
    assert (secret.seed, origin) == (SEED, "loaded")
    assert choose(None, None)[1] == "ephemeral"


@posix
def test_the_hosts_key_does_not_need_a_sound_file(profile: Profile, file: Path) -> None:
    file.write_bytes(b"damaged")
    assert choose(SEED, profile)[1] == "host"
    assert file.read_bytes() == b"damaged"


# --- what is refused, and left as it is ----------------------------------------------------------------

DAMAGED = {
    "empty": b"",
    "cut off": GOOD[:-20],
    "zeros": bytes(len(GOOD)),
    "no text": b"\xff\xfe" + GOOD,
    "array": b"[]",
    "null": b"null",
    "no version": b'{"secret_key_hex":"%b"}' % SECRET.encode(),
    "no key": b'{"version":1}',
    "number": b'{"version":1,"secret_key_hex":5}',
    "version as text": b'{"version":"1","secret_key_hex":"%b"}' % SECRET.encode(),
    "unknown field": b'{"version":1,"secret_key_hex":"%b","x":1}' % SECRET.encode(),
    "31 bytes": b'{"version":1,"secret_key_hex":"%b"}' % SECRET[:-2].encode(),
    "33 bytes": b'{"version":1,"secret_key_hex":"%b00"}' % SECRET.encode(),
    "odd digits": b'{"version":1,"secret_key_hex":"%b"}' % SECRET[:-1].encode(),
    "no hex": b'{"version":1,"secret_key_hex":"%bzz"}' % SECRET[:-2].encode(),
    "deep": b'{"x":' + b"[" * 100_000,
    "twice": GOOD + GOOD,
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_refused(profile: Profile, data: bytes) -> None:
    profile.write(IDENTITY_FILE, data)
    assert "damaged" in _refusal(profile).message


@pytest.mark.parametrize("version", [-1, 0, 2, 2**62])
@pytest.mark.parametrize("more", [b"", b',"later":{"a":[1]}'])
def test_another_version_is_refused_as_such(profile: Profile, version: int, more: bytes) -> None:
    """Not as damage: the advice to move it away would cost the user the identity of a newer release."""
    profile.write(IDENTITY_FILE, b'{"version":%d,"secret_key_hex":"%b"%b}' % (version, SECRET.encode(), more))
    assert _refusal(profile).message == f"identity.json has version {version}; this release reads only 1"


@given(st.binary(max_size=100) | st.integers(0, len(GOOD)).map(lambda cut: GOOD[:cut]))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_the_key_or_refused(profile: Profile, data: bytes) -> None:
    profile.write(IDENTITY_FILE, data)
    if data.rstrip() == GOOD.rstrip():
        assert from_profile(profile)[0].seed == SEED
    else:
        _refusal(profile)


@posix
@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o660, 0o666, 0o601, 0o610, 0o777])
def test_a_file_that_others_can_open_is_refused(profile: Profile, file: Path, mode: int) -> None:
    profile.write(IDENTITY_FILE, GOOD)
    file.chmod(mode)
    assert "closed to others" in _refusal(profile).message


@posix
@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_that_only_we_can_open_is_loaded(profile: Profile, file: Path, mode: int) -> None:
    profile.write(IDENTITY_FILE, GOOD)
    file.chmod(mode)
    assert from_profile(profile)[0].seed == SEED


@posix
def test_a_file_of_another_user_is_refused(
    profile: Profile, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile.write(IDENTITY_FILE, GOOD)
    owner = file.stat().st_uid
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: owner + 1)
        assert "belong to us" in _refusal(profile).message
    assert from_profile(profile)[1] == "loaded"


@posix
def test_the_file_that_is_judged_is_the_file_that_was_read(
    profile: Profile, file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A swap between reading and judging must not lend an over-readable file the mode of another."""
    profile.write(IDENTITY_FILE, GOOD)
    file.chmod(0o644)
    original = os.fstat

    def swap(fd: int) -> os.stat_result:
        if (status := original(fd)).st_ino == file.stat().st_ino:
            (tmp_path / "closed").write_bytes(b"")
            (tmp_path / "closed").chmod(0o600)
            (tmp_path / "closed").replace(file)
        return status

    monkeypatch.setattr(os, "fstat", swap)
    with pytest.raises(IdentityCorrupt, match="closed to others"):
        from_profile(profile)


@posix
def test_a_link_is_refused_and_never_replaced(profile: Profile, file: Path, tmp_path: Path) -> None:
    for target in (tmp_path / "theirs", tmp_path / "nowhere"):
        (tmp_path / "theirs").write_bytes(GOOD)
        (tmp_path / "theirs").chmod(0o600)
        file.symlink_to(target)
        with pytest.raises(StorageError):
            from_profile(profile)
        assert file.is_symlink()
        file.unlink()


def test_a_file_that_we_cannot_read_is_never_replaced(
    profile: Profile, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile.write(IDENTITY_FILE, GOOD)
    original = os.open

    def refuse(path: Path, *args: int) -> int:
        if Path(path) == file:
            raise PermissionError(13, "Permission denied")
        return original(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(StorageError):
            from_profile(profile)
    assert file.read_bytes() == GOOD


# --- the secret stays one ------------------------------------------------------------------------------


def test_no_text_shows_the_secret() -> None:
    for value in (SecretKey(SEED), _IdentityFile(version=1, secret_key_hex=SECRET)):
        assert SECRET[:8] not in f"{value} {value!r} {[value]}"
        assert repr(SEED)[2:10] not in f"{value!r}"


def test_the_files_limit_is_no_reason_to_replace_it(profile: Profile, file: Path) -> None:
    profile.write(IDENTITY_FILE, GOOD)
    with file.open("ab") as more:
        more.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(StorageError):
        from_profile(profile)
    assert file.stat().st_size == MAX_FILE_BYTES + 1
