"""The documentation as a site: `make docs`."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "Upweight"
author = "The Upweight authors"
project_copyright = "2026, the Upweight authors. Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "generated", "plain_docstrings"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "_ext"]
myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "Upweight"
html_static_path: list[str] = []
# Nothing from elsewhere: the site works without internet.
html_theme_options = {"source_repository": "", "top_of_page_buttons": []}
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": False}
maximum_signature_line_length = 80
python_use_unqualified_type_names = True
nitpicky = False
