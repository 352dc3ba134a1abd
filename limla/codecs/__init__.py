"""Codecs: bytes ↔ pixels. One file each, and one line in `limla.registry.CODECS`.

A codec is asked for by a text, as the command line and study files write it: "jpeg", "jpeg:subsampling=444",
"autoencoder:weights=codec.bin", and with "-bpp" after the name for one whose quality is a rate: see
`limla.codecs.matching`.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from limla.codecs.base import Codec, QualityScale
from limla.codecs.matching import BPP, RATE_SCALE, RateMatched
from limla.errors import SettingsError
from limla.registry import CODECS

_WORDS = {"true": True, "false": False}


def codec_name(text: str) -> str:
    """The name in a codec's text, which folders and rows have: "jpeg" of "jpeg:subsampling=444".

    Raises `UnknownNameError` for a name no catalogue lists.
    """
    name = text.partition(":")[0].strip()
    CODECS.check(name.removesuffix(BPP))
    return name


def codec_scale(text: str) -> QualityScale:
    """The scale of the qualities of a codec's text; raises as `codec_name`, and where the codec is not installed."""
    name = codec_name(text)
    return RATE_SCALE if name.endswith(BPP) else CODECS.load(name).scale


def at_rate(text: str) -> str:
    """The text of the twin whose quality is a rate: "jpeg-bpp:subsampling=444" of "jpeg:subsampling=444"."""
    name, colon, knobs = text.partition(":")
    return codec_name(text) + ("" if name.strip().endswith(BPP) else BPP) + colon + knobs


def higher_is_better(name: str) -> bool:
    """Whether a codec's quality rises with its number; True for one that this installation does not know.

    `name` may be a label, as rows have it.
    """
    name = name.partition(":")[0]
    known = name.removesuffix(BPP) in CODECS.plugs and not name.endswith(BPP)
    return not known or CODECS.load(name).scale.higher_is_better


def build_codec(text: str, **knobs: str | int | bool) -> Codec:
    """The codec of a text, with more of its knobs: `build_codec("jpeg", subsampling="420")`.

    Raises `UnknownNameError` for a name no catalogue lists, and `SettingsError` for a knob the codec does not
    have, one given twice, or a value it does not know.
    """
    name = codec_name(text)
    plug = CODECS.load(name.removesuffix(BPP))
    types = _knob_types(plug)
    found: dict[str, str | int | bool] = {}
    for part in _parts(text.partition(":")[2]):
        knob, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not knob or not value:
            raise SettingsError(f"codec '{text}': '{part}' is not knob=value; write jpeg:subsampling=444")
        if knob in found:
            raise SettingsError(f"codec '{text}': {knob} is given twice")
        found[knob] = _value(text, knob, value, types.get(knob, str))
    for knob, value in knobs.items():
        if found.setdefault(knob, value) != value:
            raise SettingsError(f"codec '{text}': {knob} is {found[knob]} there, and {value} was asked for too")
    for knob in found:
        if knob not in types:
            known = ", ".join(types) or "none"
            raise SettingsError(f"codec '{name}' has no setting '{knob}'; known: {known}")
    codec = plug(**found)
    return RateMatched(codec) if name.endswith(BPP) else codec


def codec_label(text: str) -> str:
    """A codec's text as rows record it: its name, and the knobs that are not the codec's own choice.

    Weights are named by their contents, so equal labels are equal codecs: "jpeg", "jpeg:subsampling=444",
    "autoencoder:weights=0f3c…". Raises as `build_codec`.
    """
    codec, name = build_codec(text), codec_name(text)
    settings = codec.settings()
    changed = [
        f"{knob}={settings[knob]}".lower() if isinstance(settings[knob], bool) else f"{knob}={settings[knob]}"
        for knob, default in _knob_defaults(CODECS.load(name.removesuffix(BPP))).items()
        if settings[knob] != default
    ]
    return f"{name}:{','.join(changed)}" if changed else name


def _parts(knobs: str) -> list[str]:
    """ "a=1,b=2" in two; a comma that no `knob=` follows is part of the value, as a path's may be."""
    found: list[str] = []
    for part in filter(None, knobs.split(",")):
        if found and "=" not in part:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def _value(text: str, knob: str, value: str, wanted: Any) -> str | int | bool:
    """A knob's value as its argument is annotated."""
    try:
        if wanted is bool:
            return _WORDS[value.lower()]
        if knob == "weights":
            return str(Path(value).expanduser())
        return int(value) if wanted is int else value
    except (KeyError, ValueError) as error:
        what = "true or false" if wanted is bool else "a whole number"
        raise SettingsError(f"codec '{text}': {knob} is '{value}'; write {what}") from error


def _knob_types(plug: Any) -> dict[str, Any]:
    return {
        name: parameter.annotation
        for name, parameter in inspect.signature(plug, eval_str=True).parameters.items()
    }


def _knob_defaults(plug: Any) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(plug).parameters.items()}
