#!/usr/bin/env python3
"""Download a public dataset as class folders: `limla fetch`."""

import sys

from limla.cli import limla

limla(["fetch", *sys.argv[1:]])
