#!/usr/bin/env python3
"""Re-encode source shards at each quality: `limla reencode`."""

import sys

from limla.cli import limla

limla(["reencode", *sys.argv[1:]])
