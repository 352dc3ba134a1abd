"""Codecs: bytes ↔ pixels. One file each, and one line in `limla.registry.CODECS`."""

from __future__ import annotations

import inspect

from limla.codecs.base import Codec
from limla.errors import SettingsError
from limla.registry import CODECS


def build_codec(name: str, **knobs: str | int | bool) -> Codec:
    """The codec of that name with its pinned knobs, e.g. `build_codec("jpeg", subsampling="420")`.

    Raises `UnknownNameError` for a name no catalogue lists, and `SettingsError` for a knob the codec does not
    have or a value it does not know.
    """
    plug = CODECS.load(name)
    known = list(inspect.signature(plug).parameters)
    for knob in knobs:
        if knob not in known:
            raise SettingsError(f"codec '{name}' has no setting '{knob}'; known: {', '.join(known) or 'none'}")
    return plug(**knobs)
