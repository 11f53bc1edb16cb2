"""How the documentation is built: `python -m sphinx -W docs site`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bigmodel

project = "bigmodel"
copyright = "the bigmodel authors, Apache-2.0"
version = release = bigmodel.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "comparison/compare.md"]  # the latter is part of comparison.md

# Docstrings are written once for people who read the source: Google sections, and `names` in single backticks.
default_role = "literal"
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints = "none"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "pydata_sphinx_theme"
html_title = "bigmodel"
html_show_sourcelink = False
html_theme_options = {"show_prev_next": True, "navigation_with_keys": False}
