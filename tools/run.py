#!/usr/bin/env python3
"""Run a study from its TOML file: `limla run`."""

import sys

from limla.cli import limla

limla(["run", *sys.argv[1:]])
