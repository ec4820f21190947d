"""Sphinx's settings for these pages: `make docs`."""

from dataclasses import fields, is_dataclass

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


def add_options(app, what, name, obj, options, lines):
    """List the options of a method's settings, with their help, below its docstring."""
    if what == "class" and is_dataclass(obj):
        own = [one for one in fields(obj) if "help" in one.metadata]
        lines += [f"* ``{one.name}`` = {one.default}: {one.metadata['help']}" for one in own]
        lines.append("")


def drop_options(app, what, name, obj, options, signature, result):
    """Leave the options out of the signature of a method's settings: they are listed."""
    is_settings = name.startswith("gemkern.tickets.") and name.endswith("Settings")
    return ("", result) if what == "class" and is_settings else None


def setup(app):
    """Connect what looks at docstrings and signatures."""
    app.connect("autodoc-process-docstring", add_options)
    app.connect("autodoc-process-signature", drop_options)
