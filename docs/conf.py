"""How `make docs` builds the site: the repository's own pages, and a reference made from the code.

The source folder is the repository's root, so the links of a page are the same here and in a checkout.
"""

from importlib import import_module
from importlib.metadata import version as installed_version

project, author = "resnetrt", "resnetrt contributors"
version = release = installed_version("resnetrt")
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/**",
    "deploy/README.md",
    "benchmarks/results/**",
]
exclude_patterns = ["docs/_templates"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
suppress_warnings = ["misc.highlighting_failure"]

smartquotes = False  # options keep their two dashes
default_role = "code"  # docstrings mark code by single backticks, as Markdown does
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"

html_theme = "furo"
html_title = f"resnetrt {version}"
html_show_sphinx = html_show_sourcelink = html_copy_source = False
templates_path = ["_templates"]
html_additional_pages = {"index": "to_docs.html"}

# public names are imported when they are first used, and autodoc documents what is there
PACKAGES = ("runtime", "runtime.stream", "export", "calibration", "benchmarks", "models")
for package in (import_module(f"resnetrt.{name}") for name in PACKAGES):
    for public_name in package.__all__:
        setattr(package, public_name, getattr(package, public_name))
