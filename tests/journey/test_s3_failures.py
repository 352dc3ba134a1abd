"""What a store refuses or does not have, and writing that ends early."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from pathlib import Path

import pytest

from limla.files import atomic_open
from limla.paths import AnyPath
from limla.storage import exists, read_bytes
from tests.journey.stored import store, type_in, wait_for
from tests.object_store import Store

__all__ = ["store"]  # fixture


def test_a_killed_upload_in_parts_shows_nothing(store: Store) -> None:
    path = store.folder("parts") / "test-000000.tar"
    script = (
        "import sys\nfrom limla.paths import open_folder\nfrom limla.files import atomic_open\n"
        "with atomic_open(open_folder(sys.argv[1]) / 'test-000000.tar') as file:\n"
        "    for _ in range(17):\n        file.write(bytes(1_000_000))\n    sys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path.parent)], stdin=subprocess.PIPE)
    try:
        wait_for(lambda: any("partNumber=2" in line for line in store.requests()))
        assert not exists(path)
    finally:
        process.kill()
        process.communicate()
    assert not exists(path)
    assert store.uploads() == ["parts/test-000000.tar"], "invisible, until a lifecycle rule removes it"
    write_in_pieces(path, 17, b"x")
    assert read_bytes(path) == b"x" * 17_000_000


def write_in_pieces(path: AnyPath, num_pieces: int, fill: bytes, error: BaseException | None = None) -> None:
    """Write pieces of a million bytes, then raise `error`."""
    with atomic_open(path) as file:
        for _ in range(num_pieces):
            file.write(fill * 1_000_000)
        if error:
            raise error


@pytest.mark.parametrize("num_pieces", [1, 17])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk")])
def test_an_error_while_writing_publishes_nothing(store: Store, num_pieces: int, error: BaseException) -> None:
    path = store.folder("failed") / "object"
    before = store.uploads()
    with pytest.raises(type(error)):
        write_in_pieces(path, num_pieces, b"x", error)
    gc.collect()
    assert not exists(path)
    assert store.uploads() == before, "the upload in parts was given up"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("verify", "s3://no-such-bucket/flowers"), "there is no bucket 'no-such-bucket'"),
        (("verify", "s3://bucket/absent"), "no shards there"),
        (("reencode", "s3://bucket/absent", "--quality", "5"), "no such shard folder"),
        (("reencode", "s3://no-such-bucket/absent", "--quality", "5"), "there is no bucket"),
        (("train", "--data-dir", "s3://bucket/absent", "--output-dir", "out"), "no such shard folder"),
        (("export", "s3://bucket/absent", "out"), "no complete shard folder"),
    ],
)
def test_what_is_not_there_is_one_line(
    words: tuple[str, ...], message: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = type_in(*words)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_packing_does_not_make_a_bucket(store: Store, photo_folder: Path) -> None:
    done = type_in("pack", photo_folder, "s3://mistyped/photos")
    assert done.exit_code == 2, done.output
    assert "there is no bucket 'mistyped'" in done.stderr
    assert not [line for line in store.requests() if line.startswith("PUT /mistyped")]


@pytest.mark.parametrize(
    ("endpoint", "credentials", "message"),
    [
        ("http://127.0.0.1:9", "given", "cannot be reached"),
        (None, "missing", "access refused (Unable to locate credentials)"),
    ],
)
def test_a_store_that_does_not_answer_is_one_line(
    endpoint: str | None,
    credentials: str,
    message: str,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from s3fs import S3FileSystem

    if endpoint is not None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    if credentials == "missing":
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    S3FileSystem.clear_instance_cache()
    started = time.monotonic()
    done = type_in("verify", "s3://bucket/photos")
    S3FileSystem.clear_instance_cache()
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert time.monotonic() - started < 15
