"""How HTML pages are made of templates: escaped, strict, with our own words for figures."""

from typing import TYPE_CHECKING

from depthprune.report import figures
from depthprune.selection.guard import rounded

if TYPE_CHECKING:
    from jinja2 import Environment

FILTERS = (
    figures.count,
    figures.measured,
    figures.percent,
    figures.plural,
    figures.seconds,
    figures.size,
    rounded,
)


def templates(*packages: str) -> "Environment":
    """The templates of these packages, the first that has one of a name, and of the report."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    jinja = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, "depthprune.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters |= {show.__name__: show for show in FILTERS}
    return jinja
