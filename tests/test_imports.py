"""Imports point one way, so that each part can be read, tested and used without those that stand on it."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: What each part of few_shot may import of the others.
MAY_IMPORT = {
    "limits": set(),
    "errors": {"limits"},
    "files": {"errors", "limits"},
    "pickles": {"limits"},
    "weight_files": {"files", "limits", "pickles"},
    "arguments": {"errors"},
    "attention": set(),
    "evaluating": set(),
    "own_code": set(),
    "layer_errors": {"errors", "files"},
    "whole_files": {"errors"},
    "checkpoint": {"arguments", "errors", "files", "weight_files", "whole_files"},
    "episodes": {"errors"},
    "metrics": {"episodes", "errors"},
    "inner_optimizers": set(),
    "records": {"errors", "files", "limits"},
    "evaluation": {"errors", "metrics", "records", "whole_files"},
    "recomputation": set(),
    "adaptation": {
        *("attention", "episodes", "errors", "inner_optimizers", "layer_errors", "private_parts", "recomputation"),
    },
    "models": {"arguments", "errors", "files", "private_parts", "weight_files"},
    "private_parts": set(),
    "fast_path": {"adaptation", "inner_optimizers", "layer_errors", "episodes", "private_parts"},
    "data": {"episodes", "errors", "files", "limits", "metrics", "pickles"},
}
MAY_IMPORT["lit_models"] = {*MAY_IMPORT} - {"data"}
MAY_IMPORT["figure_style"] = {"errors", "whole_files"}
MAY_IMPORT["plots"] = MAY_IMPORT["sheets"] = {"episodes", "errors", "evaluating", "figure_style"}
MAY_IMPORT["confusion"] = {"episodes", "errors", "evaluating", "figure_style", "sheets"}
MAY_IMPORT["samples"] = {"data", "errors", "files", "limits"}
MAY_IMPORT["adapted"] = {"errors", "samples"}
MAY_IMPORT["onnx"] = {"adaptation", "episodes", "errors", "inner_optimizers", "lit_models", "private_parts"}
MAY_IMPORT["export"] = {"checkpoint", "errors", "files", "lit_models", "metrics", "onnx", "samples", "whole_files"}
MAY_IMPORT["learner"] = {*MAY_IMPORT} - {"fast_path", "private_parts"}
#: Parts that know no Lightning.
WITHOUT_LIGHTNING = {*MAY_IMPORT} - {"data", "lit_models", "learner"}


def imports(path):
    """The dotted names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "."


def test_imports_point_one_way():
    for path in (ROOT / "few_shot").rglob("*.py"):
        part = path.relative_to(ROOT / "few_shot").parts[0].removesuffix(".py")
        for name in imports(path):
            package, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            assert package != "training", f"{path} imports training"
            assert package != "pytorch_lightning" or part not in WITHOUT_LIGHTNING, f"{path} imports Lightning"
            if package == "few_shot" and part in MAY_IMPORT and other != part:
                assert other in MAY_IMPORT[part], f"{path} imports {name}"
