#!/usr/bin/env python3
"""Write the calibration dataset: `limla calibration`."""

import sys

from limla.cli import limla

limla(["calibration", *sys.argv[1:]])
