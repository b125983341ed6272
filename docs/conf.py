"""Sphinx: the site of the course, from committed outputs. `make site` stages the sources first."""

from importlib import metadata

project = "tlc-minimal"
author = "The tlc-minimal authors"
project_copyright = "The tlc-minimal authors; code MIT, prose and figures CC BY 4.0"
release = version = metadata.version("tlc-minimal")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
root_doc = "index"
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # a slider needs a kernel: the page says so instead
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # two lessons step from one # to three

autodoc_typehints = "none"
autodoc_member_order = "bysource"

# One file of npm's MathJax, copied by tools/site.py; it draws SVG and needs no fonts.
mathjax_path = "mathjax/tex-svg.js"
mathjax3_config = {
    "tex": {"inlineMath": [["$", "$"], ["\\(", "\\)"]]},
    "options": {
        "ignoreHtmlClass": "document",
        "processHtmlClass": "math|tex2jax_process|output_area",
        "enableMenu": False,  # it would fetch what is not copied
    },
}
myst_update_mathjax = False

html_theme = "sphinx_book_theme"
html_title = "tlc-minimal"
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system says
html_static_path = ["docs/_static"]
html_favicon = "docs/_static/icon.svg"
html_css_files = ["site.css"]
html_last_updated_fmt = None
html_theme_options = {
    "use_download_button": True,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "navigation_with_keys": True,
    "navbar_persistent": [],  # the search is in the sidebar
    "article_header_start": ["toggle-primary-sidebar.html"],
}
html_show_sourcelink = False


def setup(app):
    """In a docstring |x| is a norm, never a substitution."""
    escape = lambda app, what, name, obj, options, lines: lines.__setitem__(
        slice(None), [line.replace("|", "\\|") for line in lines]
    )
    app.connect("autodoc-process-docstring", escape)
