#!/usr/bin/env python3
"""Rewrite tests/golden/golden.json from what the code makes now. Say in the commit why the bytes changed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from limla.files import write_json
from tests.golden.build import GOLDEN, build

write_json(GOLDEN, build())
print(f"written: {GOLDEN}")
