"""The workflows: what they run exists, so that it can be run on any machine."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_command_is_a_target_of_make(path):
    """Each step is an action of a fixed version, or `make TARGET VARIABLE=value...` with what the Makefile knows."""
    workflow = yaml.safe_load(path.read_text())
    jobs = workflow["jobs"]
    assert workflow["name"] == path.stem and workflow[True]  # YAML reads "on" as true
    for job in jobs.values():
        assert job["timeout-minutes"] <= 60 and set(job.get("needs", ())) <= set(jobs)
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            if "uses" in step:
                assert re.fullmatch(r"[\w./-]+@v\d[\w.]*", step["uses"])
                continue
            make, target, *variables = step["run"].split()
            assert make == "make" and target in TARGETS
            for variable in variables:
                assert f"$({variable.partition('=')[0]})" in (ROOT / "Makefile").read_text()


def test_the_dockerfile_copies_and_calls_what_exists():
    """Files of the checkout that it copies, targets of make, and the script that installs."""
    text = (ROOT / "container" / "Dockerfile").read_text()
    (copied,) = re.findall(r"^COPY (.*) /install/$", text, re.M)
    assert all((ROOT / name).is_file() for name in copied.split())
    (target,) = re.findall(r"make -C /source ([\w-]+)", text)
    assert target in TARGETS and "/install/install.sh" in text


def test_one_version_everywhere():
    """The packages of a release need each other in the same version."""
    wanted = re.search(r'^__version__ = "(.*)"$', (ROOT / "compact_splats" / "__init__.py").read_text(), re.M)[1]
    for path in (ROOT / "submodules").glob("*/pyproject.toml"):
        assert re.search(r'^version = "(.*)"$', path.read_text(), re.M)[1] == wanted, path
