"""A small dataset to re-encode, and what became of it, for the suites of re-encoding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limla.files import file_sha256
from limla.reencoding import ReencodeSettings, reencode
from tests.unit.variants import make_source


def hashes(data_dir: Path) -> dict[str, str]:
    """Every file but the sources', by its SHA-256."""
    return {
        str(path.relative_to(data_dir)): file_sha256(path)
        for path in sorted(data_dir.rglob("*"))
        if path.is_file() and path.relative_to(data_dir).parts[0] != "source"
    }


SETTINGS = ReencodeSettings(qualities=(1, 10, 90), measure=5, workers=2)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, make_photo: Callable[..., Any]) -> Path:
    """A dataset re-encoded in one go; read only."""
    data_dir = tmp_path_factory.mktemp("reference") / "pets"
    make_source(data_dir, make_photo)
    reencode(data_dir, SETTINGS)
    return data_dir


@pytest.fixture
def fresh(tmp_path: Path, make_photo: Callable[..., Any]) -> Path:
    """The same dataset, not re-encoded yet."""
    make_source(tmp_path / "pets", make_photo)
    return tmp_path / "pets"
