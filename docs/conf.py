"""Sphinx's settings for these pages: `make docs`."""

from gemkern import __version__

project = "gemkern"
author = "The gemkern maintainers"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "gemkern"
exclude_patterns = ["_build"]
myst_heading_anchors = 2
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
