"""Local folders and object stores through the same few functions; `memory://` stands for a store without a server."""

from __future__ import annotations

import gc
import itertools
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import fsspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from limla import paths, storage
from limla.cli import limla
from limla.errors import DataError, MissingDependencyError, SettingsError, UnknownNameError
from limla.files import atomic_open, remove_unfinished, write_bytes
from limla.paths import AnyPath, explain, is_remote, open_folder
from limla.storage import exists, in_parallel, listing, make_folder, read_bytes, remove, stream, unique_name
from tests.object_store import DUMMY

_numbers = itertools.count()


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyPath]:
    """A folder that is not there yet, on this machine and in a store."""
    if request.param == "local":
        yield tmp_path / "data"
        return
    path = open_folder(f"memory://storage-{next(_numbers)}/data")
    assert is_remote(path)
    yield path
    if path.fs.exists(path.parent.path):
        path.fs.rm(path.parent.path, recursive=True)


def test_plain_paths_and_file_urls_are_local(tmp_path: Path) -> None:
    assert open_folder("shards/flowers") == Path("shards/flowers")
    assert open_folder(f"file://{tmp_path}/flowers") == tmp_path / "flowers"
    assert open_folder(tmp_path) is tmp_path
    assert not is_remote(open_folder(f"file://{tmp_path}"))


def test_a_url_is_a_path_that_pickles() -> None:
    path = open_folder("s3://bucket/flowers/")
    assert is_remote(path)
    assert (str(path), path.name, str(path / "source")) == (
        "s3://bucket/flowers",
        "flowers",
        "s3://bucket/flowers/source",
    )
    again = pickle.loads(pickle.dumps(path / "source"))
    assert again == path / "source"
    assert again.storage_options == path.storage_options


def test_a_protocol_may_be_in_capitals() -> None:
    assert str(open_folder("MEMORY://Pets/x")) == "memory://Pets/x"


@pytest.mark.parametrize("text", ["s3:/bucket/pets", "GS:/bucket/pets", "file:/data"])
def test_one_slash_is_no_local_folder(text: str) -> None:
    with pytest.raises(SettingsError, match=r"has one slash: write (s3|gs|file)://"):
        open_folder(text)


@pytest.mark.parametrize("text", ["s3://", "s3:///pets", "s3a://"])
def test_a_url_without_a_bucket_is_no_local_folder(text: str) -> None:
    with pytest.raises(SettingsError, match=r"names no bucket: write s3a?://bucket/folder"):
        open_folder(text)


def test_a_file_url_of_another_machine() -> None:
    with pytest.raises(SettingsError, match=r"names a machine, 'pets': write .* file:///pets/cats"):
        open_folder("file://pets/cats")
    assert open_folder("file:///pets") == Path("/pets")


def test_a_colon_in_a_local_path_is_no_protocol() -> None:
    assert open_folder("a:/b") == Path("a:/b")


def test_an_unknown_protocol_lists_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown protocol 's4'; known: s3, gs"):
        open_folder("s4://bucket/flowers")


@pytest.mark.parametrize(("protocol", "extra"), [("s3", "s3"), ("gs", "gcs"), ("gcs", "gcs")])
def test_a_missing_package_names_its_extra(protocol: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ImportError(f"install something for {name}")

    monkeypatch.setattr(fsspec, "get_filesystem_class", refuse)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'limla\[{extra}\]'"):
        open_folder(f"{protocol}://bucket/flowers")


def test_a_whole_bucket_is_no_folder() -> None:
    with pytest.raises(SettingsError, match="name a folder in it, as in s3://bucket/flowers"):
        open_folder("s3://bucket/")


def test_files_are_written_listed_read_and_removed(folder: AnyPath) -> None:
    assert listing(folder) == {}
    assert not exists(folder)
    make_folder(folder)
    write_bytes(folder / "a", b"first")
    write_bytes(folder / "a", b"again")
    write_bytes(folder / "empty", b"")
    write_bytes(folder / "below" / "b", b"deep")
    assert listing(folder) == {"a": 5, "empty": 0, "below": None}
    names = [folder / "a", folder / "below" / "b", folder / "empty"]
    assert list(in_parallel(read_bytes, names)) == [b"again", b"deep", b""]
    assert exists(folder / "below")
    remove([folder / "a", folder / "absent"])
    assert not exists(folder / "a")
    with pytest.raises(FileNotFoundError) as error:
        read_bytes(folder / "a")
    assert str(error.value.filename) == str(folder / "a")


def test_an_error_while_writing_leaves_nothing(folder: AnyPath) -> None:
    write_bytes(folder / "kept", b"old")

    def fail() -> None:
        with atomic_open(folder / "kept") as file:
            file.write(b"half")
            raise OSError("no more room")

    with pytest.raises(OSError, match="no more room"):
        fail()
    gc.collect()
    assert listing(folder) == {"kept": 3}
    assert read_bytes(folder / "kept") == b"old"


def test_what_a_killed_run_left_is_removed(folder: AnyPath) -> None:
    write_bytes(folder / "whole", b"x")
    with (folder / unique_name("half")).open("wb") as file:
        file.write(b"ha")
    assert remove_unfinished(folder) == 1
    assert listing(folder) == {"whole": 1}


def test_temporary_names_differ() -> None:
    assert len({unique_name("train-000000.tar") for _ in range(100)}) == 100


@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(st.binary(max_size=70), max_size=8), num_bytes=st.integers(0, 400))
def test_a_stream_is_the_object_whatever_the_pieces(pieces: list[bytes], num_bytes: int) -> None:
    path = open_folder(f"memory://stream-{next(_numbers)}") / "object"
    assert is_remote(path)
    whole = b"".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_BUFFER_BYTES", 16)
        patch.setattr(storage, "_RANGE_BYTES", 32)
        with atomic_open(path) as file:
            for piece in pieces:
                file.write(piece)
        assert read_bytes(path) == whole
        assert b"".join(stream(path, num_bytes)) == whole[:num_bytes]


def test_a_position_in_an_upload_is_known() -> None:
    with atomic_open(open_folder("memory://positions") / "object") as file:
        file.write(bytes(3))
        assert file.tell() == 3


def test_the_error_of_a_sending_thread_reaches_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFile

    def refuse(self: MemoryFile, data: bytes) -> int:
        raise ConnectionResetError("gone")

    path = open_folder(f"memory://broken-{next(_numbers)}") / "object"
    monkeypatch.setattr(MemoryFile, "write", refuse)
    with pytest.raises(DataError, match=rf"^{path}: the store cannot be reached"):
        write_bytes(path, b"x")
    monkeypatch.undo()
    assert listing(path.parent) == {}


def test_in_parallel_keeps_the_order_and_stops_at_an_error() -> None:
    assert list(in_parallel(lambda number: number * number, range(100))) == [n * n for n in range(100)]

    def fail(number: int) -> int:
        if number == 40:
            raise DataError("forty")
        return number

    found: list[int] = []
    with pytest.raises(DataError, match="forty"):
        found.extend(in_parallel(fail, range(1000)))
    assert found == [] or found == list(range(40))


def test_errors_are_told_once_and_only_of_stores(tmp_path: Path) -> None:
    path = open_folder("s3://bucket/flowers")
    assert "access refused" in str(explain(PermissionError("Forbidden"), path))
    assert "cannot be reached" in str(explain(TimeoutError(), path))
    assert "cannot do this" in str(explain(NotImplementedError("read only"), path))
    assert explain(FileNotFoundError("a key"), path) is None
    assert explain(DataError("told already"), path) is None
    assert explain(KeyError("a bug of ours"), path) is None
    assert explain(PermissionError("Forbidden"), tmp_path) is None
    told = explain(OSError(5, "slow down"), path)
    assert isinstance(told, OSError)
    assert (told.errno, told.strerror, told.filename) == (5, "slow down", "s3://bucket/flowers")
    assert explain(told, path / "other") is None


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "/cache/x.tar"),
        TimeoutError("reading the source"),
        KeyError("a bug"),
    ],
)
def test_an_error_of_the_block_is_not_blamed_on_the_targets(error: Exception) -> None:
    """Several variants are open at once while a shard of another folder is read."""
    folder = open_folder(f"memory://blame-{next(_numbers)}/data")

    def fail() -> None:
        with atomic_open(folder / "q1"), atomic_open(folder / "q5") as file:
            file.write(b"x")
            raise error

    with pytest.raises(type(error)) as raised:
        fail()
    assert raised.value is error
    assert listing(folder) == {}


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[bytes]], Callable[[], int]]]:
    """Start a server that gives each connection the next of some answers, then none; returns how many it had."""
    from s3fs import S3FileSystem

    patience = {"read_timeout": 0.3, "retries": {"mode": "standard", "total_max_attempts": 2}}
    monkeypatch.setattr(paths, "_PATIENCE", patience)
    for name, value in DUMMY.items():
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as held:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
        connections: list[socket.socket] = []

        def serve(answers: list[bytes]) -> None:
            with suppress(OSError):  # closed at the end
                while True:
                    connection = held.enter_context(listening.accept()[0])
                    connections.append(connection)
                    if len(connections) <= len(answers):
                        connection.recv(4096)
                        connection.sendall(answers[len(connections) - 1])
                        connection.shutdown(socket.SHUT_RDWR)

        def start(answers: list[bytes]) -> Callable[[], int]:
            threading.Thread(target=serve, args=(answers,), daemon=True).start()
            return lambda: len(connections)

        S3FileSystem.clear_instance_cache()
        yield start
        S3FileSystem.clear_instance_cache()
        listening.shutdown(socket.SHUT_RDWR)


def test_a_server_that_never_answers_is_asked_as_often_as_said(
    answering: Callable[[list[bytes]], Callable[[], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_SECONDS_TO_REPEAT", 0.0)
    asked = answering([])
    with pytest.raises(DataError, match="cannot be reached"):
        read_bytes(open_folder("s3://bucket/flowers") / "object")
    assert asked() == 2
    with pytest.raises(DataError, match="cannot be reached"):
        listing(open_folder("s3://bucket/flowers"))
    assert asked() == 4


def test_a_read_that_breaks_off_is_begun_again(
    answering: Callable[[list[bytes]], Callable[[], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_SECONDS_BETWEEN_READS", 0.0)
    head = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 8\r\nConnection: close\r\n\r\n"
    asked = answering([head + b"half", head + b"half", head + b"complete"])
    assert read_bytes(open_folder("s3://bucket/flowers") / "object") == b"complete"
    assert asked() == 3


URL = "s3://bucket/somewhere"


@pytest.mark.parametrize(
    "words",
    [
        ("pack", URL, "shards"),
        ("train", "--data-dir", "shards", "--output-dir", URL),
        ("train", "--data-dir", "shards", "--output-dir", "out", "--results-csv", URL),
        ("evaluate", "--data-dir", "shards", "--output-dir", URL),
        ("evaluate", "--data-dir", "shards", "--output-dir", "out", "--checkpoint", URL),
        ("export", "shards", URL),
        ("report", URL),
        ("report", "results", "--output", URL),
        ("run", URL),
        ("run", "--raw", URL),
        ("run", "--raw", "photos", "--output-dir", URL),
        ("predict", "--checkpoint", "best.pt", URL),
        ("calibration", URL),
        ("fetch", "mnist", URL),
    ],
)
def test_other_paths_refuse_a_url(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(limla, list(words))
    assert done.exit_code == 2, done.output
    assert f"{URL} is a URL, and only shards may lie in an object store: give a local path" in done.output
    assert not list(tmp_path.iterdir())


def test_a_study_refuses_a_url_for_what_is_local(tmp_path: Path) -> None:
    from limla.study import read_settings

    study = tmp_path / "study.toml"
    study.write_text('data_dir = "s3://bucket/flowers"\noutput_dir = "out"\n', encoding="utf-8")
    settings, _ = read_settings(study)
    assert str(settings["data_dir"]) == "s3://bucket/flowers"
    for name in ("output_dir", "raw"):
        study.write_text(f'{name} = "{URL}"\n', encoding="utf-8")
        with pytest.raises(SettingsError, match=f"{name} is the URL {URL}, and only shards"):
            read_settings(study)
