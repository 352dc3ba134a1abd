#!/usr/bin/env python3
"""Pack a folder of photos into source shards: `limla pack`."""

import sys

from limla.cli import limla

limla(["pack", *sys.argv[1:]])
