"""Who may import whom: modules in the order in which a frame meets them, and nothing heavy before it is needed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "rtskel"

ORDER = [
    "text",
    "configs",
    "closing",
    "errors",
    "skeleton",
    "rates",
    "workers",
    "manifest",
    "flags",
    "native",
    "filters",
    "curve",
    "wire",
    "refine",
    "avatar",
    "formats",
    "lift",
    "recordings",
    "model",
    "client",
    "engine",
    "archive",
    "training",
    "translate",
    "serve",
    "tools",
    "pairs",
    "view",
    "sinks",
    "sources",
    "cli",
    "__main__",
]
"""Each module may import only modules above it."""

CLIENT = {"closing", "errors", "skeleton", "flags", "wire", "curve"}
HEAVY = ["torch", "openvino", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda", "rich", "safetensors"]
HEAVY += ["matplotlib", "cv2", "mediapipe", "websockets", "pylsl", "mcap", "pandas", "xarray", "sacrebleu"]
HEAVY += ["scipy", "anny", "OpenGL", "av"]


def modules() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if name != "__init__":
            found.setdefault(name, []).append(path)
    return found


def imported(path: Path) -> set[str]:
    """Modules of rtskel that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("rtskel.")} & set(modules())


def circles() -> list[set[str]]:
    """Sets of modules that import each other, in whatever way: when called, and for annotations too.

    Only in `rtskel.serve` annotations do not count: the parts of a stream know the stream that they are parts of.
    """
    paths = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        paths[".".join(part for part in parts if part != "__init__")] = path
    imports = {}
    for name, path in paths.items():
        tree = ast.parse(path.read_text())
        if name.startswith("rtskel.serve."):
            tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test))]
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names = {(str(node.module), f"{node.module}.{alias.name}") for node in nodes for alias in node.names}
        names -= {("rtskel", "rtskel._native")}  # the compiled part
        imports[name] = {whole if whole in paths else module for module, whole in names} & paths.keys() - {name}
    reached = {name: set(above) for name, above in imports.items()}
    for _ in range(len(paths).bit_length()):  # paths twice as long each time
        reached = {name: above.union(*(reached[other] for other in above)) for name, above in reached.items()}
    return [{other for other in above if name in reached[other]} for name, above in reached.items() if name in above]


def test_no_module_imports_itself_around_a_circle():
    assert circles() == []


def test_every_module_has_its_place():
    assert set(modules()) <= set(ORDER), f"place {set(modules()) - set(ORDER)} in ORDER"


@pytest.mark.parametrize("name", ORDER)
def test_imports_go_up_only(name):
    above = set(ORDER[: ORDER.index(name)]) | {name}
    for path in modules().get(name, []):
        assert imported(path) <= above, f"{path.name} imports {imported(path) - above}"


def test_rules():
    users = {name: set().union(*map(imported, paths)) - {name} for name, paths in modules().items()}
    assert "engine" not in users["refine"], "refine receives an engine and imports none"
    assert users["client"] <= CLIENT
    assert {name for name, used in users.items() if "serve" in used} <= {"cli"}
    assert {name for name, used in users.items() if "training" in used} <= {"tools", "pairs", "translate", "cli"}
    assert {name for name, used in users.items() if "cli" in used} == {"__main__"}


@pytest.mark.parametrize("module", ["rtskel", "rtskel.client", "rtskel.cli", "rtskel.engine"])
def test_nothing_heavy_is_imported(module):
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"


def test_the_architecture_names_what_is_there():
    page = (PACKAGE.parent / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`((?:rtskel|engines|bench|tests|docs)/[\w./-]+|pyproject\.toml)`", page))
    assert len(named) > 20
    assert not {path for path in named if not (PACKAGE.parent / path).exists()}
