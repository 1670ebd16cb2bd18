"""Pages that are one file: Jinja templates in which text is escaped unless told otherwise, and their shared style.

Names, reasons and settings come from people, files and errors. A page loads nothing from elsewhere: its own
Content-Security-Policy allows neither that nor scripts other than its own.
"""

import math
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from metasr.charts import MINUS

NONE = "\N{EN DASH}"
SHARED = Path(__file__).parent


def render(folder: Path, name: str, **content: Any) -> str:
    """Return a page.

    Args:
        folder: Where the template is; `base.css` is found from everywhere.
        name: File name of the template.
        content: What the template names. Filters: `number` (digits), `signed` (digits).
    """
    environment = Environment(
        loader=FileSystemLoader([folder, SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number_text, "signed": signed_text}
    return environment.get_template(name).render(**content)


def script_hash(script: str) -> str:
    """Return the source of an inline script for a Content-Security-Policy."""
    return f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"


def png_url(png: bytes) -> str:
    """Return a PNG file as a data URL."""
    return f"data:image/png;base64,{b64encode(png).decode()}"


def number_text(value: float | None, digits: int = 4) -> str:
    """Return a measured number with a true minus; a dash for None and NaN."""
    return NONE if value is None or math.isnan(value) else f"{value:.{digits}f}".replace("-", MINUS)


def signed_text(value: float | None, digits: int = 4) -> str:
    """Return a difference with its sign; a dash for None and NaN."""
    return NONE if value is None or math.isnan(value) else f"{value:+.{digits}f}".replace("-", MINUS)
