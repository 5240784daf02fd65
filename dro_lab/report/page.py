"""One self-contained page from a template: style, script and data inline, nothing from the network.

Three rules keep a policy's text from doing anything but being read. Jinja escapes what stands in the page; what the
script shows comes as JSON in which nothing can end its element, and enters the page as text alone; and the page's
Content-Security-Policy admits only the one style and the one script whose hashes it names.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dro_lab.report import content

HERE = Path(__file__).parent
SCRIPTS = ("dom.js", "heat.js", "browser.js", "side_by_side.js", "start.js")
"""In the order in which the page runs them."""
UNSAFE = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\N{LINE SEPARATOR}": "\\u2028",
    "\N{PARAGRAPH SEPARATOR}": "\\u2029",
}


def embedded(data: Any) -> Markup:
    """``data`` as JSON that can stand in a ``script`` element: nothing in it can end the element or open another."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in UNSAFE.items():
        text = text.replace(character, escape)
    return Markup(text)


def render_page(
    template: str, *, rules: Mapping[str, str], data: Mapping[str, Any] | None = None, **values: Any
) -> str:
    """The page as text.

    Args:
        rules: style rules of the figures, selector to declarations; they join the page's one style element.
        data: what the script shows; each entry becomes a JSON element with the id ``data-KEY``.
        values: what the template asks for.
    """
    environment = _environment()
    style = environment.get_template("style.css.j2").render() + "".join(
        f"{selector}{{{declarations}}}\n" for selector, declarations in sorted(rules.items())
    )
    script = "".join((HERE / "js" / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return environment.get_template(template).render(
        policy=content_security_policy(style=style, script=script),
        style=Markup(style),
        script=Markup(script),
        data=data or {},
        **values,
    )


def content_security_policy(*, style: str, script: str) -> str:
    """Nothing but this one style, this one script and images that stand in the page."""
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=content.number, value=content.value, interval=content.interval, embedded=embedded)
    return environment
