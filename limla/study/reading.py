"""A study's TOML file → plain values with its paths, and where each entry stands."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limla.errors import SettingsError
from limla.paths import AnyPath, is_url, open_folder
from limla.study.lines import about_entry
from limla.study.parsing import ONE_DATASET, EntryPath, StudyFile, study_from
from limla.study.plan import Study


def read_settings(path: Path) -> tuple[dict[str, Any], StudyFile]:
    """The entries of a study's TOML file; relative paths in it (also of weights) are relative to the file's folder.

    Raises `SettingsError` for a file that is missing or is not TOML.
    """
    try:
        # some editors begin a file with a byte order mark, which TOML does not know
        text = path.read_text(encoding="utf-8-sig")
        settings = tomllib.loads(text)
    except FileNotFoundError as error:
        raise SettingsError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise SettingsError(f"{path}: a folder; name a TOML file") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error
    file = StudyFile(str(path), text)
    with file.naming_lines():
        settings = _with_weights(path, _placed(path, settings, ("data_dir", "output_dir", "raw"), ()), ())
        for name, change in (("datasets", _with_folders), ("codecs", _with_weights), ("train", _with_weights)):
            if isinstance(entries := settings.get(name), list):
                settings[name] = [change(path, entry, (name, place)) for place, entry in enumerate(entries)]
        if "training" in settings:
            settings["training"] = _with_weights(path, settings["training"], ("training",))
    return settings, file


def _with_folders(study_file: Path, table: Any, path: EntryPath) -> Any:
    return _placed(study_file, table, ONE_DATASET, path)


def _placed(study_file: Path, table: Any, names: Sequence[str], path: EntryPath) -> Any:
    if not isinstance(table, dict):
        return table
    found = dict(table)
    for name in names:
        if isinstance(text := table.get(name), str):
            with about_entry(*path, name):
                found[name] = _place(study_file, name, text)
    return found


def _with_weights(study_file: Path, table: Any, path: EntryPath) -> Any:
    weights = table.get("weights") if isinstance(table, dict) else None
    if not isinstance(weights, str) or weights in ("none", "imagenet"):
        return table
    with about_entry(*path, "weights"):
        return {**table, "weights": str(_beside(study_file, weights))}


def _place(study_file: Path, name: str, text: str) -> AnyPath:
    """The folder that an entry names; only the shards' may be a URL."""
    if not is_url(text):
        return _beside(study_file, text)
    if name != "data_dir":
        raise SettingsError(
            f"{name} is the URL {text}, and only shards (data_dir) may lie in an object store: give a local path"
        )
    return open_folder(text)


def _beside(study_file: Path, name: str) -> Path:
    """A path in a study file; "../out" beside "tools/study.toml" is shown as "out"."""
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise SettingsError(f"{name!r}: no such user's home folder; write the path in full") from error
    if "\0" in name:
        raise SettingsError(f"{name!r} holds a null character, which no path can")
    return Path(os.path.normpath(study_file.parent / path))


def read_study(path: Path) -> Study:
    """Read a study from a TOML file (see `read_settings`).

    Raises `SettingsError` for a file that cannot be read or asks for what does not exist, naming the line.
    """
    settings, file = read_settings(path)
    return study_from(settings, file)
