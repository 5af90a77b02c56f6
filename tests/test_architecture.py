"""The shape of the source, read from its syntax trees: which way imports point, and what no file may contain."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A room may import itself and the rooms before it. Commands may import all.
ROOMS = (
    "utils", "arguments", "scene", "gaussian_renderer", "training", "compression", "viewer", "suite", "photogrammetry",
    "demo", "commands",
)  # fmt: skip
BESIDE_EACH_OTHER = ("viewer", "suite", "photogrammetry", "demo")  # above compression, none imports another
ALLOWED = {("suite", "commands")}  # it starts the scripts by their paths
# Rooms below know no engine.
ENGINE_FROM = {
    "diff_gaussian_rasterization": "scene", "fused_ssim": "scene", "simple_knn": "scene", "usable_processors": "utils",
}  # fmt: skip
PACKAGE = "compact_splats"
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py") if path.name != "setup.py")


def source_files() -> list[Path]:
    """The Python files of the product; build folders and virtual environments are not among them."""
    folders = ("utils", "arguments", "scene", "gaussian_renderer", PACKAGE)
    files = [*ROOT.glob("*.py"), *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    packages = (path for path in (ROOT / "submodules").glob("*/*/*.py") if path.parent.name in ENGINE_FROM)
    return sorted({*files, *packages} - {ROOT / "setup.py"})


def room_of(path: Path) -> str:
    """The room of a file; the engine's name below submodules/, "" for the package itself."""
    parts = path.relative_to(ROOT).parts
    if parts[0] == "submodules":
        return parts[2]
    if parts[0] == PACKAGE:
        return parts[1] if len(parts) > 2 else ""
    return parts[0] if len(parts) > 1 else "commands"


def imported(tree: ast.AST) -> Iterator[str]:
    """Names of the imported modules, but for those that only type checkers import."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names)
        yield from imported(node)


def forbidden_imports(room: str, names: Iterator[str]) -> list[str]:
    """Imports of a room above, of the engine below its room, of tests, or past the package's name."""
    found = []
    for name in names:
        if name.startswith("."):
            if room not in ENGINE_FROM:
                found.append(name)
            continue
        first, *rest = name.split(".")
        level = ROOMS.index(room) if room in ROOMS else -1
        if first in ("tests", "benchmarks", *ROOMS) and first != PACKAGE:
            found.append(name)
        elif first in ENGINE_FROM and 0 <= level < ROOMS.index(ENGINE_FROM[first]):
            found.append(name)
        elif first == PACKAGE and (room in ENGINE_FROM or rest and not _may_import(room, rest[0])):
            found.append(name)
    return found


def _may_import(room: str, other: str) -> bool:
    if room == "" or other not in ROOMS or room == other or (room, other) in ALLOWED:
        return True
    if {room, other} <= set(BESIDE_EACH_OTHER):
        return False
    return ROOMS.index(other) < ROOMS.index(room)


def violations(tree: ast.AST, room: str) -> list[str]:
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
            if name.endswith(".cuda") and room != "arguments":
                found.append(f"line {node.lineno}: {name}(")
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"line {node.lineno}: bare except")
        elif isinstance(node, ast.Constant) and node.value == "cuda" and room != "arguments":
            found.append(f"line {node.lineno}: the literal 'cuda'")
    return found


TREES = {path: ast.parse(path.read_text()) for path in source_files()}


def test_imports_point_one_way():
    found = {str(path): forbidden_imports(room_of(path), imported(tree)) for path, tree in TREES.items()}
    assert not {path: names for path, names in found.items() if names}


def test_nothing_forbidden_is_written():
    found = {str(path): violations(tree, room_of(path)) for path, tree in TREES.items()}
    assert not {path: lines for path, lines in found.items() if lines}


def test_every_file_says_what_it_is():
    assert not [path for path, tree in TREES.items() if not ast.get_docstring(tree) and path.read_text().strip()]


def test_every_package_is_in_the_wheel():
    inside = (path.parent.relative_to(ROOT / PACKAGE) for path in TREES if PACKAGE in path.parts)
    packages = {".".join([PACKAGE, *folder.parts]) for folder in inside}
    packages |= {f"{PACKAGE}.{room}" for room in ("utils", "arguments", "scene", "gaussian_renderer", "commands")}
    words = (ROOT / "pyproject.toml").read_text()
    assert not [name for name in packages if f'"{name}",' not in words]


@pytest.mark.parametrize("command", [*SCRIPTS, "-m compact_splats compress", "-m compact_splats suite"])
def test_help_does_not_wait_for_what_it_does_not_need(command):
    words = [sys.executable, "-X", "importtime", *command.split(), "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "compact_splats.arguments" in loaded and "usage" in done.stdout
    assert not loaded & {"torch", "numpy", "scipy", "cv2", "PIL", "pycolmap", "viser", "tensorboard", "matplotlib"}


def test_a_training_does_not_import_the_compiler_of_torch(tiny_scene_dir, tmp_path):
    """Neither the compiler, which takes a second and 70 MB, nor what only other commands need."""
    code = f"""if True:
        import sys
        from compact_splats.commands.train import main
        main({["-s", str(tiny_scene_dir), "-m", str(tmp_path / "out"), "--final-budget", "500", "--iterations", "12"]})
        print(*(set(sys.modules) & {{"torch._dynamo", "sympy", "matplotlib", "viser", "pycolmap"}}))
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not done.stdout.splitlines()[-1]


# ---- the checks themselves ----


def test_the_files_of_the_project_are_found():
    names = {str(path.relative_to(ROOT)) for path in TREES}
    assert {"train.py", "scene/gaussian_model.py", "compact_splats/training/training.py"} <= names
    assert "submodules/diff-gaussian-rasterization/diff_gaussian_rasterization/__init__.py" in names


@pytest.mark.parametrize(
    ("room", "code"),
    [
        ("utils", "from compact_splats.scene import ply"),
        ("scene", "from compact_splats.gaussian_renderer import render"),
        ("training", "def f():\n    from compact_splats.compression import encode"),
        ("viewer", "import compact_splats.suite.plan"),
        ("arguments", "import diff_gaussian_rasterization"),
        ("scene", "from utils.errors import InputError"),
        ("compression", "from compact_splats.commands import render"),
        ("diff_gaussian_rasterization", "import compact_splats"),
    ],
)
def test_a_forbidden_import_is_found(room, code):
    assert forbidden_imports(room, imported(ast.parse(code)))


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
def test_a_forbidden_expression_is_found(code):
    assert violations(ast.parse(code), "utils")


def test_what_is_allowed_is_allowed():
    code = "torch.load(path, weights_only=True)\nmodel.eval()\nre.compile('x')\nx.to(device)"
    assert not violations(ast.parse(code), "utils")
