"""The shape of the source, read from its syntax trees: which way imports point, and what no file may contain."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A package may import those before it and itself. Whatever stands at the top of the tree, the scripts, may import all.
LAYERS = (("utils", "arguments"), ("scene", "photogrammetry"), ("gaussian_renderer",), ("compression",), ("viewer",))
ENGINES = {"diff_gaussian_rasterization", "simple_knn"}
LAYER_OF_ENGINE = {
    "diff_gaussian_rasterization": "gaussian_renderer",
    "diff_gaussian_rasterization.optimizer": "scene",
    "simple_knn": "scene",
}
NAMES_DEVICES = ("arguments", "tests", "benchmarks")


def source_files() -> list[Path]:
    """Python files of the project; build folders and virtual environments, whose names vary, are not among them."""
    folders = [name for layer in LAYERS for name in layer] + ["tests", "benchmarks"]
    files = [*ROOT.glob("*.py"), *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    packages = (path for path in (ROOT / "submodules").glob("*/*/*.py") if path.parent.name in ENGINES)
    return sorted([*files, *packages])


FILES = source_files()
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def package_of(path: Path) -> str:
    """First folder of a file, or "" for a script at the top; the package's name below submodules/."""
    parts = path.relative_to(ROOT).parts
    return parts[2] if parts[0] == "submodules" else parts[0] if len(parts) > 1 else ""


def imported_modules(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
    return names


def imported_packages(tree: ast.AST) -> set[str]:
    return {name.split(".")[0] for name in imported_modules(tree)}


def part_of_engine(module: str) -> str:
    """The longest name in LAYER_OF_ENGINE that a module has or is below, or ""."""
    return max((name for name in LAYER_OF_ENGINE if f"{module}.".startswith(f"{name}.")), key=len, default="")


def forbidden_imports(package: str) -> set[str]:
    """What a package must not import: what stands above it, the scripts, and the tests."""
    scripts = {path.stem for path in ROOT.glob("*.py")}
    every = {name for layer in LAYERS for name in layer}
    if package in ENGINES:
        return every | scripts | {"tests", "benchmarks"}
    level = next((i for i, layer in enumerate(LAYERS) if package in layer), None)
    if level is None:
        return set() if package in ("tests", "benchmarks") else {"tests", "benchmarks"}
    above = {name for layer in LAYERS[level + 1 :] for name in layer}
    return above | scripts | {"tests", "benchmarks"}


def violations(tree: ast.AST, package: str) -> list[str]:
    """Forbidden expressions of a file, each with its line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in ("eval", "exec", "os.system"):
                found.append(f"line {node.lineno}: {name}(")
            if name == "torch.load" and keywords.get("weights_only") != "True":
                found.append(f"line {node.lineno}: torch.load without weights_only=True")
            if name.endswith(".cuda") and package not in NAMES_DEVICES:
                found.append(f"line {node.lineno}: {name}(")
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"line {node.lineno}: bare except")
        elif isinstance(node, ast.Constant) and node.value == "cuda" and package not in NAMES_DEVICES:
            found.append(f"line {node.lineno}: the literal 'cuda'")
    return found


def test_the_files_of_the_project_are_found():
    """Guards the tests below against passing because they look at nothing."""
    names = {str(path.relative_to(ROOT)) for path in FILES}
    assert {"train.py", "metrics.py", "scene/gaussian_model.py", "tests/test_architecture.py"} <= names
    assert "submodules/diff-gaussian-rasterization/diff_gaussian_rasterization/__init__.py" in names


@each_file
def test_dependencies_point_one_way(path):
    package = package_of(path)
    assert not imported_packages(ast.parse(path.read_text())) & forbidden_imports(package)


@pytest.mark.parametrize("engine", sorted(LAYER_OF_ENGINE))
def test_only_the_layer_meant_for_it_and_those_above_use_an_engine(engine):
    """The scene never renders, and arguments and utils know no engine."""
    level = next(i for i, layer in enumerate(LAYERS) if LAYER_OF_ENGINE[engine] in layer)
    below = {name for layer in LAYERS[:level] for name in layer}
    users = [path for path in FILES if engine in map(part_of_engine, imported_modules(ast.parse(path.read_text())))]
    assert not [path for path in users if package_of(path) in below]


@each_file
def test_nothing_forbidden_is_written(path):
    assert not violations(ast.parse(path.read_text()), package_of(path))


@each_file
def test_every_file_says_what_it_is(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring or not path.read_text().strip(), "a file starts with a docstring that says what it is"


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')",
        "exec('1')",
        "os.system('ls')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "x.cuda()",
        "x.to('cuda')",
        "try:\n    pass\nexcept:\n    pass",
    ],
)
def test_the_check_itself_finds_what_is_forbidden(code):
    assert violations(ast.parse(code), "utils")


def test_the_check_itself_allows_what_is_allowed():
    code = "torch.load(path, weights_only=True)\nmodel.eval()\nre.compile('x')\nx.to(device)"
    assert not violations(ast.parse(code), "utils")
