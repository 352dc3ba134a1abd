"""The small languages of the command line."""

from __future__ import annotations

import pytest

from limla.cli.options import parse_channels
from limla.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("0.5,0.25,1", (0.5, 0.25, 1.0)),
        (" 1/255, 128/255 ,0", (1 / 255, 128 / 255, 0.0)),
    ],
)
def test_channels(text: str | None, expected: tuple[float, float, float] | None) -> None:
    assert parse_channels(text, "--mean") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.5", r"--std '0\.5': write three numbers"),
        ("", "three numbers"),
        ("1,2,3,4", "three numbers"),
        ("1,2,x", "--std '1,2,x': 'x' is not a number"),
        ("1,2,1/0", "'1/0' is not a number"),
        ("1,2,nan", "'nan' is not a number"),
        ("1,,2", "'' is not a number"),
    ],
)
def test_what_is_no_three_channels(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_channels(text, "--std")
