"""Configuration of Sphinx for the site of docs/: Markdown by MyST, formulas as MathML, options read from the commands.

``make docs`` builds it into build/docs. Pages load nothing from the network.
"""

import sys
from pathlib import Path

SITE = Path(__file__).parent
ROOT = SITE.parent.parent
sys.path[:0] = [str(ROOT), str(SITE)]

project = "Compact Splats"
author = "the authors of Compact Splats"
extensions = ["myst_parser", "formulas", "options_table", "repository_links"]
exclude_patterns = ["site"]
html_theme = "furo"
html_title = project
html_show_copyright = False
html_copy_source = False
highlight_language = "text"
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 4
