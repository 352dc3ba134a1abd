#!/usr/bin/env python3
"""Rewrite tests/golden/golden.json and limla/doctor/golden from what the code makes now.

Say in the commit why the bytes changed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from limla.doctor.records import GOLDEN as PICTURES
from limla.files import write_json
from tests.golden.build import GOLDEN, build
from tests.golden.pictures import write_pictures

write_json(GOLDEN, build())
print(f"written: {GOLDEN}")
write_pictures(PICTURES)
print(f"written: {PICTURES}")
