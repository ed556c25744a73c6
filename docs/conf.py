"""How the documentation is built: `make docs`. It needs no network, and neither does the site."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "sagdeploy"
copyright = "the authors of sagdeploy"
version = release = installed("sagdeploy")

extensions = ["myst_parser", "sphinx.ext.autodoc", "command_help", "docstrings", "reference"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
myst_url_schemes = {
    "https": None,
    "schema": {"url": "schemas/{{path}}.schema.json"},  # written by _ext/reference.py
}

autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "exclude-members": "model_config",
}
autodoc_preserve_defaults = True
add_module_names = False
python_maximum_signature_line_length = 88
suppress_warnings = [
    "ref.python",  # modules have aliases of the same name, such as Json, of which any will do
]

html_theme = "furo"  # its letters are the system's: no font, script or picture from elsewhere
html_title = "sagdeploy"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5f99", "color-brand-content": "#1f5f99"},
    "dark_css_variables": {"color-brand-primary": "#6db1ee", "color-brand-content": "#6db1ee"},
}
