"""MkDocs hooks: the navigation from docs/README.md, and pages for the repository files that the documentation links to.

Pages link to source files by relative paths, which work on a repository host. In the site such a link leads to a
generated page with the file's text, so that the site is complete without any host.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
INDEX = "README.md"
GENERATED = "source"
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".md": None}
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(?=[)#])")


def on_config(config: Any) -> Any:
    """Build the navigation from the headings and links of the index page."""
    config.nav = [{"Home": INDEX}]
    for section in re.split(r"^## ", (ROOT / "docs" / INDEX).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        heading = section.splitlines()[0].split(":")[0]
        links = re.findall(r"^(?:-|\d+\.) \[(.+?)\]\(([^)#]+\.md)\)", section, re.MULTILINE)
        if links:
            config.nav.append({heading: [{title.replace("`", ""): _uri(f"docs/{path}")} for title, path in links]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each linked file outside ``docs``, and for the files that those pages link to."""
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        for path in sorted(set(_outside_links(page, (ROOT / page).read_text("utf-8"))) - seen):
            seen.add(path)
            files.append(File.generated(config, _uri(path), content=_content(path)))
            if path.endswith(".md"):
                waiting.append(path)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to files outside ``docs`` lead to their generated pages."""
    origin = _origin(page.file.src_uri)
    folder = posixpath.dirname(page.file.src_uri)

    def rewrite(match: re.Match[str]) -> str:
        path = _resolve(origin, match[0])
        return match[0] if path is None else posixpath.relpath(_uri(path), folder or ".")

    return LINK.sub(rewrite, markdown)


def _outside_links(origin: str, text: str) -> list[str]:
    """Return the repository paths of the files outside ``docs`` that a text links to."""
    paths = [_resolve(origin, target) for target in LINK.findall(text)]
    return [path for path in paths if path is not None and not path.startswith("docs/")]


def _resolve(origin: str, target: str) -> str | None:
    """Return the repository path of a link's target, or None if the target is not a file of the repository."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    return path if not path.startswith("..") and (ROOT / path).is_file() else None


def _uri(path: str) -> str:
    """Return the site's source path of a repository file."""
    path = posixpath.normpath(path)
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{GENERATED}/{path}" if path.endswith(".md") else f"{GENERATED}/{path}.md"


def _origin(uri: str) -> str:
    """Return the repository path of a page of the site."""
    path = uri.removeprefix(f"{GENERATED}/")
    if path == uri:
        return f"docs/{uri}"
    return path if (ROOT / path).is_file() else path.removesuffix(".md")


def _content(path: str) -> str:
    """Return the generated page of a repository file: Markdown as it is, anything else as code."""
    text = (ROOT / path).read_text("utf-8")
    if path.endswith(".md"):
        return text
    language = LANGUAGES.get(Path(path).suffix, "text")
    return f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n~~~~~~{language}\n{text}\n~~~~~~\n"
