"""How the command line's small languages are read: quality lists, `8/255`, sample counts."""

from __future__ import annotations

import re
from typing import Literal

from limla.errors import SettingsError
from limla.plans import parse_number
from limla.qualities import parse_qualities

__all__ = ["parse_channels", "parse_measure", "parse_number", "parse_qualities"]


def parse_channels(text: str | None, option: str) -> tuple[float, float, float] | None:
    """Three numbers, for red, green and blue: "0.5,0.5,0.5" or "1/255,1/255,1/255"; None where not given.

    Raises `SettingsError` naming the option for anything else.
    """
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 3:
        raise SettingsError(
            f"{option} '{text}': write three numbers on the [0, 1] scale, for red, green and blue, as in 0.5,0.5,0.5"
        )
    try:
        red, green, blue = (parse_number(part.strip()) for part in parts)
    except SettingsError as error:
        raise SettingsError(f"{option} '{text}': {error}") from error
    return red, green, blue


def parse_measure(text: str) -> int | Literal["all", "none"]:
    """How many images of each variant to measure: a count, "all" or "none".

    Raises `SettingsError` for anything else.
    """
    word = text.strip().lower()
    if word == "all" or word == "none":
        return word
    if not re.fullmatch(r"\d{1,12}", word, re.ASCII):
        raise SettingsError(f"'{text}' is not a number of images to measure: choose a number, all or none")
    return int(word)
