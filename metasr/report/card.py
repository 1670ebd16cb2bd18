"""A model card, which is Markdown, as part of a page: no HTML of its own, no links, nothing loaded from elsewhere."""

import re

from markdown_it import MarkdownIt
from markupsafe import Markup


def card_html(text: str) -> Markup:
    """Return a card without its title, its headings two levels lower."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink"])
    body = re.sub(r"\A# .*\n", "", text.lstrip())
    html = str(parser.render(body))
    html = re.sub(r"(</?h)(\d)", lambda found: f"{found[1]}{min(6, int(found[2]) + 1)}", html)
    html = html.replace(
        "<table>", '<div class="scroll" role="region" aria-label="Table of the card" tabindex="0"><table>'
    )
    return Markup(html.replace("</table>", "</table></div>"))
