"""Programs that are not ours, fetched by npm once, into the user's cache folder."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


def installed(name: str, *packages: str) -> Path:
    """The folder node_modules with packages, beside no other project; skips the test without npm or a network."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not found: no program that is not ours to check the files")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compact-splats"
    folder = cache / name
    if not (folder / "complete").exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            fresh = Path(temporary) / "install"
            fresh.mkdir()
            try:
                run = [npm, "install", "--prefix", str(fresh), "--no-audit", "--no-fund", *packages]
                done = subprocess.run(run, capture_output=True, text=True, timeout=250, cwd=fresh)
            except subprocess.TimeoutExpired:
                pytest.skip(f"npm did not fetch {name} within 250 s")
            if done.returncode:
                pytest.skip(f"npm cannot fetch {name}: {done.stderr.strip()[-200:]}")
            (fresh / "complete").touch()
            shutil.rmtree(folder, ignore_errors=True)
            fresh.rename(folder)
    return folder / "node_modules"
