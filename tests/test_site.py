"""`make docs`: the site builds without a warning, and its reference knows every command, option and public name."""

import ast
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import click
import pytest
from test_public_names import PUBLIC

from resnetrt.cli import COMMANDS, cli

ROOT = Path(__file__).parent.parent
CODE = ("core", "cli", "export", "calibration", "runtime", "benchmarks", "models")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` does it; a link that leads nowhere is a warning, and a warning ends it."""
    place = tmp_path_factory.mktemp("site")
    command = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "-m sphinx" in line).split()[1:]
    command = [str(place) if part == "build/site" else part for part in command]
    done = subprocess.run(
        [sys.executable, *command], check=False, cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return place


def text(site: Path, page: str) -> str:
    return unescape(re.sub("<[^>]+>", "", (site / page).read_text()))


def test_a_guide_is_two_screens_long():
    """5,000 characters and 90 lines are about 2 x 1080 pixels at a width of 1280; the longest is 2154 in Chromium."""
    (listed,) = re.findall(r":caption: Guides\n\n(.*?)```", (ROOT / "docs" / "index.md").read_text(), re.DOTALL)
    guides = [name for name in listed.split() if not name.startswith("tutorials/")]
    assert len(guides) > 15
    for name in guides:
        page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        size = max(len(page) / 5000, page.count("\n") / 90)
        assert size <= 1, f"docs/{name}.md: move contracts and figures to other pages"


def test_no_line_of_a_page_is_taken_for_a_comment():
    """The site's Markdown drops a line that begins with a percent sign, without a warning."""
    pages = [
        path
        for path in [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
        if re.search(r"^\s*%", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert pages == []


@pytest.mark.slow
def test_every_page_is_in_the_site_and_in_its_contents(site: Path):
    pages = [path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md")]
    contents = (site / "docs" / "index.html").read_text()
    for page in pages:
        assert (site / page.with_suffix(".html")).is_file()
        assert page.name == "index.md" or f'href="{page.with_suffix(".html").relative_to("docs")}"' in contents, page
    assert "docs/index.html" in (site / "index.html").read_text()


@pytest.mark.slow
def test_the_reference_knows_every_command_and_option(site: Path):
    page = text(site, "docs/reference/commands.html")
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        assert f"resnetrt {name}" in page
        for option in (item for item in command.params if isinstance(item, click.Option) and not item.hidden):
            assert option.opts[0] in page, (name, option.opts)


@pytest.mark.slow
def test_the_reference_knows_every_public_name(site: Path):
    page = text(site, "docs/reference/api.html")
    for package, names in PUBLIC.items():
        for name in names if package != "resnetrt" else ():
            assert re.search(rf"\b{name}\b", page), (package, name)


def test_every_message_of_the_troubleshooting_page_is_one_that_the_code_prints():
    printed = "\n".join(
        "\n".join(_texts(ast.parse(path.read_text()))) for folder in CODE for path in (ROOT / folder).rglob("*.py")
    )
    rows = re.findall(r"^\| `(.+?)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(rows) > 20
    assert [row for row in rows if row not in printed] == []


def _texts(tree: ast.AST) -> list[str]:
    """The string literals of a module; what is filled in is left out."""
    literals = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            literals.append("".join(part.value for part in node.values if isinstance(part, ast.Constant)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            literals.append(node.value)
    return literals
