"""Folders that are local paths or URLs of object stores: how they are written, opened and refused.

A plain path and `file://` are a `pathlib.Path`; any other protocol that fsspec knows is a `upath.UPath`, which has
the same methods. Credentials and endpoints come from the environment, never from limla; what a store's client library
raises becomes one line that says what to do. `limla.storage` reads and writes there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from limla.errors import DataError, MissingDependencyError, SettingsError, UnknownNameError

if TYPE_CHECKING:
    from typing_extensions import TypeIs
    from upath import UPath

AnyPath: TypeAlias = "Path | UPath"
"""A local path, or one in an object store."""

_WHOLE_ON_CLOSE = ("s3", "s3a", "gs", "gcs")
"""Stores where an object appears when its upload is completed; elsewhere a finished file is renamed."""
_LOCAL = ("file", "local")
_KNOWN = ("s3", "gs", "abfs", "hdfs", "sftp", "file")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_PATIENCE = {
    "connect_timeout": 10,
    "read_timeout": 12,
    "retries": {"mode": "standard", "total_max_attempts": 4},
}
"""Of S3, in seconds: a server that never answers ends a request within 4 x 12 and the 7 at most between attempts."""
_NETWORK_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "google", "gcsfs", "requests", "urllib3", "azure")


def is_url(text: str) -> bool:
    """Whether `text` is written as a URL."""
    return "://" in text


def is_remote(path: AnyPath) -> TypeIs[UPath]:
    """Whether a path is one of an object store (or another file system that only fsspec reaches)."""
    return not isinstance(path, Path)


def is_whole_on_close(path: UPath) -> bool:
    """Whether the store itself shows an object only when its upload is completed."""
    return path.protocol in _WHOLE_ON_CLOSE


def open_folder(text: str | AnyPath) -> AnyPath:
    """The folder that `text` names; asks no network.

    Raises `UnknownNameError` for a protocol that fsspec does not know, `MissingDependencyError` for one whose
    package is not installed, `SettingsError` for a bucket without a folder in it.
    """
    if not isinstance(text, str):
        return text
    scheme, slash, rest = text.partition(":/")
    if not is_url(text):
        # pathlib would make a folder called `s3:` here, and the user believe that it lies in the store
        if slash and scheme.lower() in {*_WHOLE_ON_CLOSE, *_KNOWN}:
            raise SettingsError(f"'{text}' has one slash: write {scheme.lower()}://{rest}")
        return Path(text)
    import fsspec

    protocol = scheme.lower()
    text = f"{protocol}:/{rest}"
    if protocol not in fsspec.available_protocols():
        raise UnknownNameError(
            f"'{text}': unknown protocol '{protocol}'; known: {', '.join(_KNOWN)} and the others of fsspec"
        )
    try:
        kind = fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        remedy = f"pip install 'limla[{extra}]'" if extra else str(error)
        raise MissingDependencyError(
            f"'{text}' needs a package for {protocol}:// that is not installed: {remedy}"
        ) from error
    if protocol in _LOCAL:
        host = "" if rest.startswith("//") else rest[1:].partition("/")[0]
        if host:
            raise SettingsError(
                f"'{text}' names a machine, '{host}': write a path of this one as {protocol}:///{rest[1:]}"
            )
        return Path(kind._strip_protocol(text))
    if protocol in _WHOLE_ON_CLOSE and not rest[1:].partition("/")[0]:
        raise SettingsError(f"'{text}' names no bucket: write {protocol}://bucket/folder")
    from upath import UPath

    folder = UPath(text.rstrip("/"), **_storage_options(protocol))
    if not folder.name:
        raise SettingsError(
            f"'{text}' is a whole bucket: name a folder in it, as in {text.rstrip('/')}/flowers"
        )
    return folder


def _storage_options(protocol: str) -> dict[str, Any]:
    """Fresh listings, since other processes write too, and for S3 an end to waiting within seconds."""
    if protocol not in _WHOLE_ON_CLOSE:
        return {}
    options: dict[str, Any] = {"use_listings_cache": False}
    if _EXTRAS.get(protocol) == "s3":
        from fsspec.config import conf

        options["config_kwargs"] = {**_PATIENCE, **conf.get(protocol, {}).get("config_kwargs", {})}
    return options


def file_system(path: UPath) -> Any:
    """A path's file system; s3fs would repeat what its client has tried in vain five times, a read 25 times."""
    file_system: Any = path.fs
    if _EXTRAS.get(path.protocol) == "s3":
        file_system.retries = 1
    return file_system


def explain(error: Exception, where: AnyPath) -> Exception | None:
    """What to raise instead of an error of a store's client library; None where the error says enough."""
    if not is_remote(where) or isinstance(error, DataError):
        return None
    reason = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, FileNotFoundError):
        response = getattr(error.__cause__, "response", None) or {}
        if response.get("Error", {}).get("Code") != "NoSuchBucket":
            return None
        return DataError(
            f"{where}: there is no bucket '{where.drive}'; correct the name, or make the bucket first"
        )
    kind = type(error).__name__
    if isinstance(error, PermissionError) or "Credential" in kind or "Token" in kind:
        return DataError(
            f"{where}: access refused ({reason}); check the credentials in the environment and the bucket's rights"
        )
    if isinstance(error, NotImplementedError):
        return DataError(f"{where}: {where.protocol}:// cannot do this ({reason}); choose another place")
    is_library = type(error).__module__.split(".")[0] in _NETWORK_LIBRARIES
    if is_library or isinstance(error, TimeoutError | ConnectionError):
        return DataError(
            f"{where}: the store cannot be reached ({reason or kind}); check the network and the endpoint, then run "
            "this again: what is complete was kept"
        )
    if isinstance(error, OSError) and error.filename is None:
        return OSError(error.errno, error.strerror or reason, str(where))
    return None


@contextmanager
def explained(where: AnyPath) -> Iterator[None]:
    """Raise what `explain` says in the place of a client library's error."""
    try:
        yield
    except Exception as error:
        clear = explain(error, where)
        if clear is None:
            raise
        raise clear from error
