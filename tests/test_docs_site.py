"""The documentation site: it builds without warnings, shows every public name, and makes no outside request."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import masam

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site as ``make docs`` does; ``--strict`` fails on dead links and on pages outside the navigation."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_public_name_has_its_docstring(site):
    page = (site / "reference/api.html").read_text("utf-8")
    assert {name for name in masam.__all__ if f'id="masam.{name}"' not in page} == set()


def test_no_page_makes_an_outside_request(site):
    loads = r'<(?:script|img|iframe|source|link)\b[^>]*?(?:src|href)="((?:https?:)?//[^"]+)"'
    outside = {
        (page.name, target) for page in site.rglob("*.html") for target in re.findall(loads, page.read_text("utf-8"))
    }
    assert outside == set()
    styles = [style.read_text("utf-8") for style in site.rglob("*.css")]
    assert not any(re.search(r"url\(['\"]?(https?:)?//|@import", style) for style in styles)


def test_links_to_source_files_lead_to_their_text(site):
    page = (site / "concepts/windows-and-aggregation.html").read_text("utf-8")
    assert 'href="../source/src/masam/windows.py.html"' in page
    assert "class</span>" in (site / "source/src/masam/windows.py.html").read_text("utf-8")
