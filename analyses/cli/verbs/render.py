"""`mechguard render`: the page again from `report.json`, without the model."""

from pathlib import Path
from typing import Annotated

import typer

from analyses.cli import options


def render(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of a report.", show_default=False)
    ],
) -> None:
    """Rebuild report.html from report.json and tables/."""
    from analyses.rendering import render as rebuild

    options.say(str(rebuild(directory)))
