"""An object store for the tests of a module, and the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from limla.cli import limla
from tests.object_store import Store, running_store


def type_in(*words: object, env: dict[str, str] | None = None) -> Result:
    """Run one `limla` command line in this process."""
    return CliRunner().invoke(limla, [str(word) for word in words], env=env)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with running_store(tmp_path_factory.mktemp("s3")) as running:
        yield running


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Return when `condition` holds; fail when it does not within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
