"""How people write lists of qualities: "1,5,10-90:10"."""

from __future__ import annotations

import re

from limla.codecs.base import QualityScale
from limla.errors import SettingsError
from limla.manifest import SOURCE

_DEFAULT_SCALE = QualityScale("quality", 1, 100)
_PART = re.compile(r"(?P<first>\d{1,9})(-(?P<last>\d{1,9})(:(?P<step>\d{1,9}))?)?", re.ASCII)


def parse_qualities(
    text: str, allow_source: bool = False, scale: QualityScale = _DEFAULT_SCALE
) -> tuple[int | None, ...]:
    """The qualities a list names, each once, sorted: "1,5,10-30:10" → (1, 5, 10, 20, 30).

    A part is a number, a range `a-b` (both ends included) or `a-b:step`; with `allow_source` also "source",
    the originals, which becomes None and comes first.

    Raises `SettingsError` naming the first part that is not one of these or lies outside `scale`.
    """
    found: set[int] = set()
    source = False
    for part in (piece.strip() for piece in text.split(",")):
        if allow_source and part.lower() == SOURCE:
            source = True
        else:
            found.update(_parse_part(part, text, allow_source, scale))
    return (*((None,) if source else ()), *sorted(found))


def _parse_part(part: str, text: str, allow_source: bool, scale: QualityScale) -> range:
    allowed = f"{scale.lowest} to {scale.highest}{', or source' if allow_source else ''}"
    match = _PART.fullmatch(part)
    if match is None:
        what = f"'{part}'" if part else "an empty part"
        raise SettingsError(
            f"{scale.knob} list '{text}': {what} is not a {scale.knob}: "
            f"write 10, 10-90 or 10-90:10, each {allowed}, separated by commas"
        )
    first = int(match["first"])
    last = int(match["last"] or first)
    step = int(match["step"] or 1)
    for number in (first, last):
        if not scale.lowest <= number <= scale.highest:
            raise SettingsError(
                f"{scale.knob} list '{text}': {number} in '{part}' is out of range: choose {allowed}"
            )
    if last < first or step < 1:
        raise SettingsError(
            f"{scale.knob} list '{text}': the range '{part}' is empty: write low-high:step, with a step of at least 1"
        )
    return range(first, last + 1, step)
