"""The documentation site: ``python -m pip install '.[docs]' && python -m sphinx -W docs build/site``.

Tutorials are run; studies are, too, with ``-D quick_studies=1`` and the extra ``studies`` (``gallery.py``).
"""

import os
import re
import sys
from pathlib import Path

import stedyn

# tutorials compile more than they run
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
sys.path.insert(0, str(Path(__file__).parent))  # gallery.py

project = "stedyn"
version = release = stedyn.__version__
author = "the authors of stedyn"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "gallery",
]
sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "generated/tutorials",
    "filename_pattern": ".",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "ignore_repr_types": "matplotlib",
    "remove_config_comments": True,
    "write_computation_times": False,
    "show_signature": False,
    "download_all_examples": False,
}
myst_heading_anchors = 3
exclude_patterns = ["README.md", "tutorials", "generated/studies/quick"]
autosummary_ignore_module_all = False
autodoc_typehints = "none"  # the docstrings say shapes and units
numpydoc_show_class_members = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme = "pydata_sphinx_theme"
html_title = "stedyn"  # a longer one is wider than a telephone
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False, "navbar_center": []}
html_sidebars = {"**": ["globaltoc.html"]}


ARXIV = re.compile(r"arXiv (\d{4}\.\d{5})")


def linked_papers(app, page, source) -> None:
    """Papers that a page cites become links."""
    if app.env.doc2path(page).suffix == ".md":
        source[0] = ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", source[0])


def linked(app, what, name, obj, options, lines) -> None:
    """Papers, pages and sections of the theory that a docstring cites become links."""
    for k, line in enumerate(lines):
        line = ARXIV.sub(r"`arXiv \1 <https://arxiv.org/abs/\1>`__", line)
        line = re.sub(r"``docs/theory\.md``, equation (\d+)", r"theory, equation :eq:`theory-eq-\1`", line)
        line = re.sub(r"``docs/theory\.md``, section (\d+)", r":ref:`theory, section \1 <theory-\1>`", line)
        lines[k] = re.sub(r"``docs/([\w-]+)\.md``", r":doc:`\1.md </\1>`", line)


def setup(app) -> None:
    """Hooks of the site."""
    app.connect("source-read", linked_papers)
    app.connect("autodoc-process-docstring", linked)
