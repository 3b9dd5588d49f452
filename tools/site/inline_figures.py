"""A hook of mkdocs: puts SVG figures into the page itself, where `currentColor` is the page's own colour of text, so
that they fit light and dark."""

import html
import posixpath
import re

from mkdocs.structure.files import Files

IMAGE = re.compile(r'<img alt="([^"]*)" src="([^":]+\.svg)"[^>]*>')
# What a figure says of its colours where it is shown as a file of its own.
STYLE = re.compile(r"<style[^>]*>.*?</style>", re.DOTALL)


def on_page_content(content: str, *, page, files: Files, **_) -> str:
    by_place = {file.dest_uri: file for file in files}
    folder = posixpath.dirname(page.file.dest_uri)

    def inline(match: re.Match) -> str:
        file = by_place.get(posixpath.normpath(posixpath.join(folder, match[2])))
        if file is None:
            return match[0]  # mkdocs says that it is missing
        return f'<span class="figure">{figure(file.content_string, html.unescape(match[1]))}</span>'

    return IMAGE.sub(inline, content)


def figure(svg: str, description: str) -> str:
    """The <svg> element alone, without its size and style, described for those who cannot see it."""
    element = STYLE.sub("", svg[svg.index("<svg") :], count=1)
    head, sign, rest = element.partition(">")
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{html.escape(description)}"{sign}{rest}'
