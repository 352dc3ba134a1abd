"""One HTML file with its style and scripts inside, from a template."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from limla.pages.plots import plotly_script, script_hash
from limla.pages.shown import OPEN_ROWS


def render(package: str, template: str, values: dict[str, Any]) -> str:
    """The page of a package's template, which may use the macros of this one.

    Besides `values` the template gets `style`, `scripts`, `script_policy` (only these scripts run on the page) and
    `open_rows`. What it shows is escaped; a name it does not find is an error.
    """
    shared = PackageLoader("limla.pages")
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), shared]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def source(name: str) -> str:
        return shared.get_source(environment, name)[0]

    scripts = [plotly_script(), source("plots.js")]
    return environment.get_template(template).render(
        style=Markup(source("page.css")),
        scripts=[Markup(script) for script in scripts],
        script_policy=Markup(" ".join(map(script_hash, scripts))),
        open_rows=OPEN_ROWS,
        **values,
    )


def versions(packages: Iterable[str]) -> list[tuple[str, str]]:
    """(name, version) of Python and of the named distributions, for a page's foot."""
    return [
        ("Python", platform.python_version()),
        *((name, importlib.metadata.version(name)) for name in packages),
    ]
