"""The documentation: its commands run, its links have targets, and its site builds without a warning."""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from compact_splats.demo.run import MODULES, steps

ROOT = Path(__file__).parent.parent
SITE = ROOT / "docs" / "site"
sys.path.append(str(SITE))

from commands import FENCE, LANGUAGES, PAGES, REASONS, Command, commands_of, fences, mentions_of  # noqa: E402
from parsers import parser_of, rows, run  # noqa: E402

# Flags that are added to commands of the pages, to make them short; nothing else is changed. The reader's scene,
# my_scene, is the demo scene at 96x64.
SHORTER = {
    "train.py": ["--iterations", "20", "--final-budget", "300"],
    "train.py --minutes": ["--minutes", "0.05", "--final-budget", "300"],
    "compress.py": ["--steps", "0.002"],
    "compress.py order": ["--steps", "0.002"],
    "render.py --video": ["--fps", "1"],
}
OTHERS = {
    "apt-get", "cd", "compact-splats", "conda", "docker", "ffmpeg", "git", "nvcc", "nvidia-smi",
    "pip", "ray", "source", "ssh", "npx",
}  # fmt: skip

COMMANDS = [command for page in PAGES for command in commands_of(page)]
MENTIONS = [command for page in PAGES for command in mentions_of(page)]
RUN = [
    command
    for index, command in enumerate(COMMANDS)
    if not command.needs and command.program == "python" and command.words not in [c.words for c in COMMANDS[:index]]
]


def python_words(command: Command) -> list[str]:
    """What follows ``python`` or torchrun's options."""
    words = list(command.words)
    if command.program == "torchrun":
        return words[next(i for i, word in enumerate(words) if word.endswith(".py")) :]
    return words[1:]


@cache
def known_flags(words: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name for names, _, _ in rows(parser_of(words)) for name in names.split(", ")) | {"--help", "-h"}


def subcommand(words: list[str]) -> tuple[str, ...]:
    """The words that select a parser."""
    head = words[:2] if words[0] == "-m" else words[:1]
    rest = words[len(head) :]
    return (*head, *rest[:1]) if head == ["compress.py"] and rest and rest[0].isalpha() else tuple(head)


def test_commands_are_found():
    """The tests below have something to test."""
    assert len(RUN) >= 10 and len(COMMANDS) > 30 and len(MENTIONS) > 5
    assert {"train.py", "render.py", "metrics.py", "compress.py"} <= {python_words(command)[0] for command in RUN}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_fence_says_what_it_holds_and_what_it_needs(page):
    for language, needs, body in fences(page):
        assert language.split(" ")[0] in LANGUAGES, f"a fence of '{language}': {body[:60]}"
        assert not needs or needs in REASONS, f"<!-- needs: {needs} -->"
        assert not needs or language == "sh", f"a need of something that is no command: {body[:60]}"
    assert "<!-- needs:" not in FENCE.sub("", page.read_text()), "a need without a fence"


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # a module that other tests have imported
@pytest.mark.parametrize("command", [*COMMANDS, *MENTIONS], ids=str)
def test_every_command_and_its_flags_exist(command):
    if command.program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert [word for word in command.words[1:] if "=" not in word][0] in targets
        assert command.needs, "make is not run by tests: say what it needs"
        return
    if command.program not in ("python", "torchrun"):
        assert command.program in OTHERS
        return
    words = python_words(command)
    if words[0] in ("-c", "-m") and words[1] not in known_modules():
        return  # Python itself
    flags = {word.split("=")[0] for word in words[1:] if re.match(r"--?[a-zA-Z]", word)} - {
        "-m" if words[0] == "-m" else ""
    }
    assert {flag.replace("_", "-") for flag in flags} <= known_flags(subcommand(words))


def test_every_step_of_the_demo_and_its_flags_exist(tmp_path):
    for name, *words in steps(tmp_path, 10, 20):
        script = ("-m", MODULES[name]) if name in MODULES else (f"{name}.py",)
        assert {word for word in words if word.startswith("-")} <= known_flags(script), name


@cache
def known_modules() -> frozenset[str]:
    packages = ("compact_splats", "benchmarks", "tests")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    return frozenset(names | {name.removesuffix(".__main__") for name in names})


@pytest.fixture(scope="module")
def workplace(tiny_scene_dir, tmp_path_factory) -> Path:
    """A folder with the reader's scene and nothing else."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("my_scene", "scene"):
        shutil.copytree(tiny_scene_dir, folder / name)
    return folder


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # a module that other tests have imported
@pytest.mark.parametrize("command", RUN, ids=str)
def test_commands_run(command, workplace, monkeypatch, capsys):
    """In the order of the pages, all in one folder."""
    if any(word.endswith(".mp4") for word in command.words):
        pytest.importorskip("av", reason="PyAV is not installed")
    monkeypatch.chdir(workplace)
    words = python_words(command)
    special = [f"{words[0]} {flag}" for flag in ("--video", "--minutes") if flag in words]
    words += SHORTER[special[0]] if special else SHORTER.get(" ".join(subcommand(words)), [])
    if words[0] == "-c":
        Path("line.py").write_text(words[1])
        words = [str(workplace / "line.py")]
    assert run(words) in (0, None), capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_have_targets_in_the_repository(page):
    """Files and folders; Sphinx checks headings, below."""
    for text, path in re.findall(r"\[([^][]*)\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"[a-z]+://|mailto:|#", path):
            assert (page.parent / path.split("#")[0]).exists(), f"[{text}]({path})"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_a_page_names_exist(page):
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("*.py"))
    names = re.findall(r"`(?:test_\w+\.py::)?(test_\w+)`", page.read_text())
    assert not [name for name in names if f"def {name}(" not in tests]
    files = re.findall(r"`(test_\w+\.py)\b", page.read_text())
    assert not [name for name in files if not (ROOT / "tests" / name).exists()]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, freshly built. A warning fails the build."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed")
    out = tmp_path_factory.mktemp("site")
    arguments = ["-q", "-W", "--keep-going", "-c", SITE, "-d", out / "doctrees", ROOT / "docs", out / "html"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-m", "sphinx", *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return out / "html"


def test_the_site_has_every_page_and_loads_nothing_from_the_network(site):
    for page in PAGES:
        name = "index" if page.name == "README.md" else page.stem
        html = (site / f"{name}.html").read_text()
        assert not re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?:https?:)?//', html)
        assert all((site / picture).is_file() for picture in re.findall(r'<img[^>]*src="([^"]+)"', html)), name
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.findall(r"@import|url\([\"']?(?:https?:)?//", styles)


def test_every_option_of_every_command_is_on_the_site(site):
    """All scripts at the top are documented, with the options of their parsers."""
    html = (site / "commands.html").read_text()
    scripts = {path.name for path in ROOT.glob("*.py")} - {"setup.py"}
    shown = [" ".join(language.split()[1:]) for language, _, _ in fences(ROOT / "docs" / "commands.md")]
    shown = [name for name in shown if name]
    assert scripts <= set(shown)
    for name in shown:
        for flag in known_flags(tuple(name.split())) - {"--help", "-h"}:
            assert f">{flag}<" in html, f"{name} {flag}"


def test_formulas_become_mathml(site):
    html = (site / "method-model.html").read_text()
    assert html.count("<math ") > 10 and "$" not in re.sub(r"<code.*?</code>|<script.*?</script>", "", html, flags=re.S)
