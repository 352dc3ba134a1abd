"""What an examination says, a line each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        topic: what it is about ("decoder dali-cpu").
        text: what was found.
        differs: True where numbers made here may not be those made elsewhere; a package that is not installed, or a
            GPU that is not there, differs from nothing.
    """

    topic: str
    text: str
    differs: bool = False
