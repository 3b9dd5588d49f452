"""A hook of mkdocs: pages may link to any file of the project, as they do where they are read in the repository.

Such a file becomes a page of the site under source/: Markdown as it is, other text as a block of code, a folder as a
list of what it holds. A link to a file that is not there becomes text; tests/docs says which may be missing.
"""

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.structure.files import File, Files

PROJECT = Path(__file__).parent.parent.parent
DOCS, SOURCE = "docs", "source"
LINK = re.compile(r"(?<!\\)(?<!!)\[([^\[\]]*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2[^\n]*$", re.DOTALL | re.MULTILINE)
LANGUAGES = {".py": "python", ".sh": "bash", ".toml": "toml", ".json": "json", "Containerfile": "docker"}
HIDDEN = "__pycache__"


def on_files(files: Files, *, config) -> Files:
    """Adds the pages of all files that pages lead to, and of those that these lead to."""
    waiting = [(path_of(file), file.content_string) for file in files.documentation_pages()]
    while waiting:
        path, text = waiting.pop()
        for target in targets_of(text, path):
            uri = uri_of(target)
            if is_outside(target) and (PROJECT / target).exists() and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, content=page_of(target)))
                if target.endswith(".md"):
                    waiting.append((target, (PROJECT / target).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page, **_) -> str:
    path = path_of(page.file)

    def rewritten(words: str, link: str) -> str:
        target, anchor = resolved(link, path)
        if target is None or not (is_outside(target) or is_outside(path)):
            return f"[{words}]({link})"
        if not (PROJECT / target).exists():
            return words
        return f"[{words}]({posixpath.relpath(uri_of(target), posixpath.dirname(page.file.src_uri))}{anchor})"

    return with_links(markdown, rewritten)


def targets_of(text: str, path: str) -> list[str]:
    """The files of the project that a page at `path` links to."""
    found: list[str] = []

    def note(words: str, link: str) -> str:
        target, _ = resolved(link, path)
        found.extend([target] if target is not None else [])
        return words

    with_links(text, note)
    return found


def with_links(text: str, change: Callable[[str, str], str]) -> str:
    """The text with every link but those in blocks of code replaced by change(words, link)."""
    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [(text[end : fence.start()], True), (fence.group(), False)]
        end = fence.end()
    parts.append((text[end:], True))
    return "".join(LINK.sub(lambda m: change(m[1], m[2]), part) if is_text else part for part, is_text in parts)


def resolved(link: str, path: str) -> tuple[str | None, str]:
    """(the file of the project that a link in `path` leads to, its anchor); None for an address or a mere anchor."""
    link, sign, anchor = link.partition("#")
    if not link or re.match(r"[a-z]+:", link):
        return None, ""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link)), sign + anchor


def path_of(file: File) -> str:
    """Where a page of the site lies in the project."""
    uri = file.src_uri
    return uri.removeprefix(f"{SOURCE}/") if uri.startswith(f"{SOURCE}/") else f"{DOCS}/{uri}"


def is_outside(path: str) -> bool:
    """Whether it is no file of docs/; its folders are, for they are no pages."""
    return not path.startswith(f"{DOCS}/") or (PROJECT / path).is_dir()


def uri_of(path: str) -> str:
    """Where a file of the project lies in the site."""
    if not is_outside(path):
        return path.removeprefix(f"{DOCS}/")
    if (PROJECT / path).is_dir():
        return f"{SOURCE}/{path}/index.md"
    return f"{SOURCE}/{path}" if path.endswith(".md") else f"{SOURCE}/{path}.md"


def page_of(path: str) -> str:
    file = PROJECT / path
    if file.is_dir():
        return f"# {path}/\n\n" + "\n".join(f"- `{name}`" for name in names_in(file)) + "\n"
    text = file.read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    language = LANGUAGES.get(file.suffix or file.name, "text")
    return f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n`````{language}\n{text}`````\n"


def names_in(folder: Path) -> list[str]:
    entries = sorted(entry for entry in folder.iterdir() if entry.name != HIDDEN and entry.name[0] != ".")
    return [entry.name + "/" * entry.is_dir() for entry in entries]
