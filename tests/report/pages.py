"""Reads pages that a report wrote."""

from html.parser import HTMLParser

HOSTILE = [
    '<script>alert("1")</script>',
    '"><img src=x onerror=alert(2)>',
    "&lt;b&gt; $x^2$ \x1b[31m\ud800",
    "../../etc",
]
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Reader(HTMLParser):
    """Elements with their attributes, and text, of a page whose elements are all closed in their order."""

    def __init__(self, page: str):
        super().__init__()
        self.elements, self.text, self._open = [], "", []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, text):
        self.text += text

    def tags(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]
