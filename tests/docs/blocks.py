"""The blocks of code in the pages of docs/, and what their marks say.

A page may declare, anywhere,

    <!-- setup: photos, artifact -->     what its folder holds before the first block: see tests/docs/conftest.py

and right above a block

    <!-- not run: REASON -->             it cannot run here
    <!-- exit code: N -->                a shell block that ends with this exit code, not 0
"""

import re
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parent.parent.parent / "docs"
# Their blocks are excerpts, or need weights and photos that are not part of the project.
ILLUSTRATIVE = {"ARCHITECTURE.md", "BENCHMARKS.md", "FORMAT.md", "RELIABILITY.md"}
EXECUTED = ("bash", "python")
SHOWN = ("text", "json", "toml")  # outputs, and files that somebody writes
MARKS = ("not run", "exit code")
MARK = re.compile(r"^\s*<!-- ([a-z ]+): (.*) -->\s*$")
FENCE = re.compile(r"^(\s*)```(\S*)\s*$")


class Block(NamedTuple):
    page: str  # relative to docs/
    line: int
    language: str
    source: str
    marks: dict[str, str]

    @property
    def where(self) -> str:
        return f"docs/{self.page}:{self.line}"


def pages() -> list[str]:
    found = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    return [page for page in found if page not in ILLUSTRATIVE]


def blocks_of(page: str) -> list[Block]:
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    blocks, marks, start = [], {}, None
    for number, line in enumerate(lines, 1):
        fence, mark = FENCE.match(line), MARK.match(line)
        if start is not None:
            if fence and not fence[2]:
                indent, language = start[1], start[2]
                source = "\n".join(text.removeprefix(indent) for text in lines[start[0] : number - 1])
                blocks.append(Block(page, start[0], language, source, marks))
                start, marks = None, {}
        elif fence:
            start = number, fence[1], fence[2]
        elif mark:
            marks = {**marks, mark[1]: mark[2]}
        elif line.strip():
            marks = {}
    return blocks


def setup_of(page: str) -> list[str]:
    """The names that the page's set-up declares."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = [match[2] for match in map(MARK.match, text.splitlines()) if match and match[1] == "setup"]
    return [name.strip() for names in found for name in names.split(",")]
