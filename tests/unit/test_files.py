"""Whole files or none, equal values equal bytes, one process at a time."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limla.errors import SettingsError
from limla.files import (
    TEMPORARY_SUFFIX,
    atomic_open,
    canonical_json,
    content_id,
    exclusive,
    file_sha256,
    remove_unfinished,
    write_bytes,
    write_json,
)


def test_a_file_appears_whole_and_not_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "x.bin"
    with atomic_open(path) as file:
        file.write(b"a" * 3_000_000)
        assert not path.exists()
    assert path.read_bytes() == b"a" * 3_000_000
    assert [item.name for item in path.parent.iterdir()] == ["x.bin"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt(), AssertionError()]
)
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def half() -> None:
        with atomic_open(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(type(error)):
        half()
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["x"]


def test_a_full_disk_names_the_folder_that_is_on_it(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys; from pathlib import Path; from limla.files import atomic_open\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try:\n"
        "    with atomic_open(Path(sys.argv[1]) / 'outer' / 'x'), "
        "atomic_open(Path(sys.argv[1]) / 'inner' / 'x') as file:\n"
        "        file.write(bytes(2 << 20))\n"
        "except OSError as error:\n"
        "    print(error.filename)"
    )
    # the limit on a file's size stands for the full disk: the write fails in the same place
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert done.stdout == f"{tmp_path / 'inner'}\n"
    assert not list(tmp_path.rglob("x*"))
    already_named = OSError(28, "No space left on device", "/cache/shard.tar")
    with pytest.raises(OSError, match=r"/cache/shard\.tar"), atomic_open(tmp_path / "y"):
        raise already_named


def test_a_killed_writer_leaves_a_marked_file_only(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from limla.files import atomic_open\n"
        "with atomic_open(Path(sys.argv[1])) as file:\n"
        "    file.write(b'x' * 2_000_000); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "x")], check=False)
    assert done.returncode == -signal.SIGKILL
    (leftover,) = tmp_path.iterdir()
    assert leftover.name.endswith(TEMPORARY_SUFFIX)
    (tmp_path / "kept").write_bytes(b"")
    (tmp_path / f"a-folder{TEMPORARY_SUFFIX}").mkdir()
    assert remove_unfinished(tmp_path) == 1
    assert {item.name for item in tmp_path.iterdir()} == {"kept", f"a-folder{TEMPORARY_SUFFIX}"}
    assert remove_unfinished(tmp_path / "nowhere") == 0


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(values)
def test_canonical_json_is_ascii_compact_and_returns(value: Any) -> None:
    text = canonical_json(value)
    assert text.isascii()
    assert text == json.dumps(value, sort_keys=True, separators=(",", ":"))
    assert json.loads(text) == value


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    backwards = dict(reversed(value.items()))
    assert canonical_json(value) == canonical_json(backwards)
    assert content_id(value) == content_id(backwards)


def test_content_ids_are_stable_and_tell_values_apart() -> None:
    assert content_id({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()[:16]
    assert len({content_id(value) for value in (1, "1", [1], {"1": 1}, 1.5, None)}) == 6


def test_json_files_are_equal_bytes_and_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": "größe", "a": [1, None]})
    write_json(tmp_path / "b", {"a": [1, None], "b": "größe"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert "größe" in (tmp_path / "a").read_text(encoding="utf-8")
    assert (tmp_path / "a").read_bytes().endswith(b"}\n")


def test_file_sha256(tmp_path: Path) -> None:
    data = os.urandom(1_000_000)
    write_bytes(tmp_path / "x", data)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_a_lock_is_held_by_one_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with exclusive(path, "the work"):
        assert path.exists()
        with (
            pytest.raises(SettingsError, match="the work is under way in another process"),
            exclusive(path, "the work"),
        ):
            pass
        assert path.exists()
    assert not path.exists()
    with exclusive(path, "the work"):
        pass


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from limla.files import exclusive\n"
        "with exclusive(Path(sys.argv[1]), 'x'):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "lock")], check=False)
    assert (tmp_path / "lock").exists()
    with exclusive(tmp_path / "lock", "x"):
        pass
    assert not (tmp_path / "lock").exists()


def test_many_processes_take_turns(tmp_path: Path) -> None:
    """The counter loses no step, though the lock file comes and goes."""
    (tmp_path / "counter").write_text("0")
    script = (
        "import sys, time; from pathlib import Path; from limla.files import exclusive; from limla.errors import *\n"
        "folder = Path(sys.argv[1]); done = 0\n"
        "while done < 50:\n"
        "    try:\n"
        "        with exclusive(folder / 'lock', 'x'):\n"
        "            counter = folder / 'counter'\n"
        "            counter.write_text(str(int(counter.read_text()) + 1)); done += 1\n"
        "    except SettingsError:\n"
        "        time.sleep(0.0005)\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "counter").read_text() == "200"
