"""What a path on the command line may be: shards may lie in an object store, everything else is local."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from limla.errors import LimlaError


class DataFolder(click.ParamType):
    """A folder of shards: a local path, or a URL such as s3://bucket/flowers."""

    name = "folder or URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; asks no network."""
        from limla.paths import is_url, open_folder

        if not isinstance(value, str):
            return value
        try:
            folder = open_folder(value)
        except LimlaError as error:
            self.fail(str(error), param, ctx)
        if not is_url(value) and Path(value).is_file():
            self.fail(f"{value} is a file: name a folder", param, ctx)
        return folder


class LocalPath(click.Path):
    """A path on this machine; a URL is refused, where pathlib would make a folder called `s3:`."""

    def __init__(self, **restrictions: Any) -> None:
        super().__init__(path_type=Path, **restrictions)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        from limla.paths import is_url

        if isinstance(value, str) and is_url(value):
            self.fail(
                f"{value} is a URL, and only shards may lie in an object store: give a local path", param, ctx
            )
        return super().convert(value, param, ctx)
