"""MkDocs hooks: the navigation from docs/README.md, and pages for the repository files that the documentation links to.

Pages link to source files and folders by relative paths, which work on a repository host. In the site such a link leads
to a generated page with the file's text or the folder's list of files, so that the site is complete without any host.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import masam

ROOT = Path(__file__).parent.parent
INDEX = "README.md"
API = "reference/api.md"
BROWSED = ("src", "configs")  # folders whose lists of files lead on to pages
GENERATED = "source"
LANGUAGES = {"": None, ".py": "python", ".yaml": "yaml", ".md": "markdown"}  # "": folders
HIDDEN = "---\nsearch:\n  exclude: true\n---\n\n"
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(?=[)#])")


def on_config(config: Any) -> Any:
    """Build the navigation from the headings and links of the index page."""
    config.nav = [{"Home": INDEX}]
    for section in re.split(r"^## ", (ROOT / "docs" / INDEX).read_text("utf-8"), flags=re.MULTILINE)[1:]:
        heading = section.splitlines()[0].split(":")[0]
        links = re.findall(r"^(?:-|\d+\.) \[([^\]]+)\]\(([^)#]+\.md)\)", section, re.MULTILINE)
        if links:
            config.nav.append({heading: [{" ".join(title.split()): _uri(f"docs/{path}")} for title, path in links]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each linked file or folder outside ``docs``, and for what those pages link to."""
    waiting = [(f"docs/{page.src_uri}", page.content_string) for page in files.documentation_pages()]
    seen: set[str] = set()
    while waiting:
        for path in _outside_links(*waiting.pop()) - seen:
            seen.add(path)
            content = _content(path)
            files.append(File.generated(config, _uri(path), content=content))
            if (ROOT / path).is_dir() or path.endswith(".md"):
                waiting.append((_origin(_uri(path)), content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to files outside ``docs`` lead to their generated pages, and list the public names in the API page."""
    if page.file.src_uri == API:
        markdown += "".join(f"\n::: masam.{name}\n" for name in masam.__all__)
    origin = _origin(page.file.src_uri)
    folder = posixpath.dirname(page.file.src_uri)

    def rewrite(match: re.Match[str]) -> str:
        path = _resolve(origin, match[0])
        return match[0] if path is None else posixpath.relpath(_uri(path), folder or ".")

    return LINK.sub(rewrite, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Show the Sphinx roles of docstrings, such as ``:func:`name```, as code."""
    return re.sub(r":(?:attr|class|data|exc|func|meth|mod):<code>~?", "<code>", html)


def _outside_links(origin: str, text: str) -> set[str]:
    """Return the repository paths outside ``docs`` that a text links to."""
    paths = {_resolve(origin, target) for target in LINK.findall(text)}
    return {path for path in paths if path is not None and not f"{path}/".startswith("docs/")}


def _resolve(origin: str, target: str) -> str | None:
    """Return the repository path of a link's target, or None if the target is not in the repository."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    return path if not path.startswith("..") and (ROOT / path).exists() else None


def _uri(path: str) -> str:
    """Return the site's source path of a repository file or folder."""
    if f"{path}/".startswith("docs/"):
        return path.removeprefix("docs/")
    if (ROOT / path).is_dir():
        return f"{GENERATED}/{path}/index.md"
    return f"{GENERATED}/{path}" if path.endswith(".md") else f"{GENERATED}/{path}.md"


def _origin(uri: str) -> str:
    """Return the repository path against which the links of a page of the site are resolved."""
    path = uri.removeprefix(f"{GENERATED}/")
    return f"docs/{uri}" if path == uri else path


def _content(path: str) -> str:
    """Return the generated page: Markdown as it is, other text as code, a folder as a table of its files."""
    file = ROOT / path
    if file.is_dir():
        shown = [one for one in sorted(file.iterdir()) if one.suffix in LANGUAGES and not one.name.startswith("_")]
        cells = [f"[{one.name}]({one.name})" if path.startswith(BROWSED) else one.name for one in shown]
        rows = "".join(f"| {cell} | {_summary(one)} |\n" for cell, one in zip(cells, shown, strict=True))
        return f"{HIDDEN}# {path}\n\n| file | content |\n|---|---|\n{rows}"
    text = file.read_text("utf-8")
    if file.suffix == ".md":
        return text
    return f"{HIDDEN}# {path}\n\n~~~~~~{LANGUAGES.get(file.suffix) or 'text'}\n{text}\n~~~~~~\n"


def _summary(file: Path) -> str:
    """Return the first line of a module's docstring."""
    source = file / "__init__.py" if file.is_dir() else file
    if source.suffix != ".py" or not source.is_file():
        return ""
    docstring = ast.get_docstring(ast.parse(source.read_text("utf-8"))) or ""
    return docstring.partition("\n")[0].replace("|", "\\|")
