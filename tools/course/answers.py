"""What an answer may not reach for: the course's own answers, files, the interpreter."""

import ast

FORBIDDEN = {"check", "tlc_minimal", "right", "mistakes", "inspect", "importlib", "sys", "gc"}
FORBIDDEN |= {"open", "exec", "eval", "compile", "globals", "vars", "getattr", "In", "get_ipython"}
FORBIDDEN |= {"os", "pathlib", "Path", "subprocess", "builtins", "pkgutil", "runpy", "io", "tlc"}
ALLOWED = {"tlc.count", "tlc.find_layers", "tlc.linearize", "tlc.evaluate", "tlc.Gaussian"}
ALLOWED |= {"tlc.rank", "tlc.statistics"}


def refusal(answer: str) -> str:
    """A cell that says why this answer is not run; "" if it may be."""
    try:
        tree = ast.parse(answer)
    except SyntaxError:
        return ""  # running it says so, and better
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ALLOWED:
            node.value.id = "_"
    for node in ast.walk(tree):
        words = []
        if isinstance(node, ast.Name):
            words = [node.id]
        elif isinstance(node, ast.Attribute):
            words = [node.attr]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            words = [part for alias in node.names for part in alias.name.split(".")]
            words += (getattr(node, "module", None) or "").split(".")
        bad = [w for w in words if w in FORBIDDEN or w.startswith("__")]
        if bad:
            said = f"this answer uses {bad[0]!r}, which an answer may not: write it in torch alone"
            return f"raise PermissionError({said!r})"
    return ""
