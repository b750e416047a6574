"""The documentation site: ``python -m pip install '.[docs]' && python -m sphinx -W docs build/site``."""

import stedyn

project = "stedyn"
version = release = stedyn.__version__
author = "the authors of stedyn"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
]
myst_heading_anchors = 3
exclude_patterns = ["README.md"]
autosummary_ignore_module_all = False
autodoc_typehints = "none"  # the docstrings say shapes and units
numpydoc_show_class_members = False
html_static_path = ["_static"]
html_theme = "pydata_sphinx_theme"
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False, "navbar_center": []}
html_sidebars = {"**": ["globaltoc.html"]}
