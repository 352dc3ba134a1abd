#!/usr/bin/env python3
"""Rewrite tests/golden/golden.json and limla/doctor/golden from what the code makes now.

Trains the learned codec's small weights too where they are missing: remove tests/golden/autoencoder-small.bin first.

Say in the commit why the bytes changed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from limla.doctor.records import GOLDEN as PICTURES
from limla.files import write_json
from tests.golden.build import GOLDEN, build
from tests.golden.pictures import write_pictures
from tests.golden.weights import WEIGHTS, train_weights

write_json(GOLDEN, build())
print(f"written: {GOLDEN}")
write_pictures(PICTURES)
print(f"written: {PICTURES}")
if not WEIGHTS.exists():
    train_weights(WEIGHTS)
    print(f"written: {WEIGHTS}")
