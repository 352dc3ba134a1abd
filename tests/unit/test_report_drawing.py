"""Figures have room for what they show; a warning of matplotlib is an error here."""

from __future__ import annotations

import numpy as np
import pytest

from limla.pages.svg import heat_map, shorten


@pytest.mark.parametrize("num_columns", [1, 2, 8])
def test_a_heat_map_has_room_for_long_labels(num_columns: int) -> None:
    label = shorten("originals, random jpeg quality 10,20,30,50,75,90,source", 36)
    values = np.full((2, num_columns), 50.0)
    svg = heat_map(
        values, ["originals", label], ["q10"] * num_columns, ("test quality", "trained on"), "x", "y"
    )
    assert label in svg
    assert svg.count(">50.0<") == 2 * num_columns
