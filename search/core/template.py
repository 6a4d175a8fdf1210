"""HTML pages, from Jinja2 templates beside the modules that fill them, and the pictures on them."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def render(package: str, template: str, **values: Any) -> str:
    """The template of `package` filled with `values`, which are escaped unless they are markup.

    What templates include, such as `page.css`, lies beside this module.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, ""), PackageLoader(__package__, "")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def png_address(png: bytes) -> str:
    """An address that holds a PNG, for the `src` of an image."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def svg_of(figure: Figure) -> Markup:
    """A drawing as an element of the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :].replace("<svg", '<svg role="img"', 1))
