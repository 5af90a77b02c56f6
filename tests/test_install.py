"""How the engine is built: which compiler, for which GPUs, and that no build fails for want of CUDA."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

ENGINE = Path(__file__).parent.parent / "submodules" / "diff-gaussian-rasterization"
BACKEND = ENGINE / "build_backend"
GXX = shutil.which("g++")
KERNELS = sorted((ENGINE / "src").glob("cuda_*.cu"))

# What `nvcc --list-gpu-arch` of these versions prints.
KNOWN = {
    (12, 0): (50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90),
    (12, 8): (50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90, 100, 101, 120),
    (13, 0): (75, 80, 86, 87, 88, 89, 90, 100, 110, 103, 120, 121),
}


def load(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, BACKEND / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


cuda_toolchain = load("cuda_toolchain")
Gpus, Unavailable = cuda_toolchain.Gpus, cuda_toolchain.Unavailable
all_nvccs = cuda_toolchain.nvcc_candidates
NO_GPU = Gpus()


def one_gpu(capability: int, driver: tuple[int, int] = (13, 0)) -> Gpus:
    return Gpus(driver, (capability,), is_present=True)


def choose(version: tuple[int, int], gpus: Gpus = NO_GPU, **environ: str) -> tuple[str, ...]:
    return cuda_toolchain.architectures(KNOWN[version], version, gpus, environ)


def write_nvcc(folder: Path, version: str, does: str = "exit 0") -> Path:
    """A stand-in that tells a version and, asked to compile, does what is said."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    (folder / "lib64").mkdir()
    (folder / "lib64" / "libcudart_static.a").touch()
    nvcc.write_text(
        "#!/bin/sh\n"
        f'case "$1" in --version) echo "release {version}, V{version}.1";;\n'
        f"--list-gpu-arch) printf 'compute_%s\\n' 75 80 90;;\n-dryrun) ;; *) {does};; esac\n"
    )
    nvcc.chmod(0o755)
    return nvcc


class TestArchitectures:
    """The GPU that is there; else a small set, as far as nvcc knows it, with PTX for what comes later."""

    @pytest.mark.parametrize(
        "version, expected",
        [
            ((12, 0), ("75-real", "80-real", "90")),
            ((12, 8), ("75-real", "80-real", "90", "120-real")),
            ((13, 0), ("75-real", "80-real", "90", "120-real")),
        ],
    )
    def test_without_a_gpu(self, version, expected):
        assert choose(version) == expected

    def test_what_a_later_nvcc_forgets_is_left_out(self):
        assert cuda_toolchain.architectures((100, 120), (15, 0), NO_GPU, {}) == ("120",)
        assert cuda_toolchain.architectures((200,), (19, 0), NO_GPU, {}) == ("200",)

    @pytest.mark.parametrize("version", KNOWN)
    def test_with_a_gpu_that_nvcc_knows(self, version):
        assert choose(version, one_gpu(89)) == ("89",)

    def test_with_several_gpus(self):
        assert choose((13, 0), Gpus((13, 0), (61, 86, 120), True)) == ("86", "120")

    def test_a_gpu_newer_than_nvcc_gets_the_nearest_ptx(self):
        assert choose((12, 0), one_gpu(120)) == ("90-virtual",)
        assert choose((12, 0), Gpus((12, 9), (90, 120), True)) in (("90", "90-virtual"), ("90-virtual", "90"))

    def test_a_gpu_older_than_nvcc(self):
        with pytest.raises(Unavailable, match=r"capability is 6.1, nvcc 13.0 compiles for 7.5 and newer"):
            choose((13, 0), one_gpu(61))

    @pytest.mark.parametrize(
        "text, expected", [("90", ("90",)), ("80-real;90", ("80-real", "90")), ("75, 120a", ("75", "120a"))]
    )
    def test_the_user_has_the_last_word(self, text, expected):
        assert choose((13, 0), one_gpu(86), DGR_CUDA_ARCHS=text) == expected

    @pytest.mark.parametrize("text", ["8.0", "native", "sm_90", "90;", "90-ptx"])
    def test_malformed(self, text):
        with pytest.raises(ValueError, match="DGR_CUDA_ARCHS has .*: expected numbers as in"):
            choose((13, 0), DGR_CUDA_ARCHS=text)

    def test_unknown_to_nvcc(self):
        with pytest.raises(ValueError, match="DGR_CUDA_ARCHS has '120': nvcc 12.0 knows 50, 52, "):
            choose((12, 0), DGR_CUDA_ARCHS="120")

    def test_as_options(self):
        assert cuda_toolchain.gencode(["75-real", "90", "120-virtual"]) == [
            "-gencode=arch=compute_75,code=sm_75",
            "-gencode=arch=compute_90,code=[compute_90,sm_90]",
            "-gencode=arch=compute_120,code=compute_120",
        ]


class TestSearch:
    """The first nvcc that works, and the reason why there is none."""

    @pytest.fixture(autouse=True)
    def only_these(self, monkeypatch):
        """What the machine has stays out of it."""
        self.nvccs = []
        monkeypatch.setattr(cuda_toolchain, "nvcc_candidates", lambda environ: self.nvccs)

    def test_order_of_candidates(self, tmp_path):
        (tmp_path / "empty").mkdir()
        places = {name: tmp_path / name for name in ("home", "path", "usr/local/cuda-13.0", "usr/local/cuda-12.4")}
        nvccs = {name: write_nvcc(folder, "13.0") for name, folder in places.items()}
        package = write_nvcc(tmp_path / "site" / "nvidia" / "cu13", "13.0")
        (tmp_path / "usr/local/cuda").symlink_to(places["usr/local/cuda-12.4"])
        environ = {"CUDA_HOME": str(places["home"]), "PATH": str(places["path"] / "bin")}
        found = all_nvccs(environ, tmp_path, [str(tmp_path / "site")])
        first = tmp_path / "usr/local/cuda/bin/nvcc"
        assert found == [nvccs["home"], nvccs["path"], first, nvccs["usr/local/cuda-13.0"], package]
        assert all_nvccs({"CUDACXX": "/x/nvcc", **environ}, tmp_path) == [Path("/x/nvcc")]
        assert all_nvccs({"PATH": str(tmp_path / "empty")}, tmp_path / "empty", []) == []

    @pytest.mark.parametrize(
        "version, does, reason",
        [
            ("11.5", "exit 0", "is of CUDA 11.5, 12.0 or newer is needed"),
            ("13.0", "exit 0", "is of CUDA 13.0, too new for the driver, which runs CUDA 12.4"),
            (
                "12.4",
                "echo 'host_config.h(9): error: gcc too new' >&2; exit 1",
                "fails: host_config.h.9.: error: gcc too new",
            ),
            ("12.4", "kill -9 $$", "fails: exit code -9"),
        ],
    )
    def test_reasons(self, tmp_path, version, does, reason):
        self.nvccs = [write_nvcc(tmp_path, version, does)]
        with pytest.raises(Unavailable, match=reason) as info:
            cuda_toolchain.find({"PATH": os.environ["PATH"]}, one_gpu(90, (12, 4)))
        assert "\n" not in str(info.value)

    def test_one_that_works_after_one_that_does_not(self, tmp_path):
        self.nvccs = [write_nvcc(tmp_path / "old", "11.5"), write_nvcc(tmp_path / "new", "12.4")]
        found = cuda_toolchain.find({}, one_gpu(90, (12, 4)))
        assert (found.nvcc, found.version, found.architectures) == (self.nvccs[1], (12, 4), ("90",))
        assert found.cudart == (tmp_path / "new/lib64/libcudart_static.a").resolve()

    def test_another_host_compiler_where_the_default_is_refused(self, tmp_path):
        self.nvccs = [write_nvcc(tmp_path, "12.4", 'case "$*" in *-ccbin=mine*) exit 0;; *) exit 1;; esac')]
        assert cuda_toolchain.find({"CXX": "mine"}, NO_GPU).host_compiler == "mine"
        assert cuda_toolchain.find({"CUDAHOSTCXX": "mine"}, NO_GPU).host_compiler == "mine"
        with pytest.raises(Unavailable):
            cuda_toolchain.find({"CUDAHOSTCXX": "other"}, NO_GPU)

    def test_asked_for_the_cpu_only(self, tmp_path):
        self.nvccs = [write_nvcc(tmp_path, "13.0")]
        with pytest.raises(Unavailable, match="DGR_CUDA=0"):
            cuda_toolchain.find({"DGR_CUDA": "0"}, NO_GPU)

    def test_none_and_a_driver_that_no_package_fits(self):
        with pytest.raises(Unavailable, match=r"the driver runs CUDA 12.8: update it to 580 or newer, or install"):
            cuda_toolchain.find({}, one_gpu(90, (12, 8)))

    @pytest.mark.parametrize(
        "environ, gpus, upper",
        [
            ({}, NO_GPU, None),
            ({"DGR_CUDA": "0"}, one_gpu(90), None),
            ({"DGR_CUDA": "1"}, NO_GPU, "13.1"),
            ({}, one_gpu(90, (13, 0)), "13.1"),
            ({}, one_gpu(120, (13, 4)), "13.5"),
            ({}, one_gpu(120, (14, 1)), "14.2"),
            ({}, Gpus(None, (), is_present=True), "13.1"),
            ({}, one_gpu(90, (12, 8)), None),
            ({"DGR_CUDA": "1"}, one_gpu(90, (12, 8)), None),
            ({"CUDACXX": "/no/nvcc"}, one_gpu(90), None),
        ],
    )
    def test_packages_bring_a_compiler_that_the_driver_can_run(self, environ, gpus, upper):
        names = ("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-cuda-runtime", "nvidia-cuda-cccl", "nvidia-nvvm")
        expected = [f"{name}>=13.0,<{upper}" for name in names] if upper else []
        assert cuda_toolchain.requirements(environ, gpus) == expected

    def test_no_packages_where_a_toolkit_works(self, tmp_path):
        self.nvccs = [write_nvcc(tmp_path, "13.0")]
        assert cuda_toolchain.requirements({}, one_gpu(90)) == []
        assert cuda_toolchain.requirements({"DGR_CUDA": "1"}, NO_GPU) == []

    def test_packages_where_the_toolkit_is_too_old(self, tmp_path):
        self.nvccs = [write_nvcc(tmp_path, "11.5")]
        assert len(cuda_toolchain.requirements({}, one_gpu(90))) == 5


def load_backend(monkeypatch: pytest.MonkeyPatch) -> tuple[types.ModuleType, types.ModuleType]:
    """The build backend, and the stand-in for scikit-build-core's that it calls."""
    play = types.ModuleType("scikit_build_core.build")
    play.__all__ = ["build_sdist", "build_wheel"]
    play.build_sdist = lambda *arguments: "sdist"
    play.build_wheel = lambda *arguments: "wheel"
    play.get_requires_for_build_wheel = lambda settings: ["ninja"]
    play.get_requires_for_build_editable = lambda settings: ["ninja"]
    package = types.ModuleType("scikit_build_core")
    package.build = play
    monkeypatch.setitem(sys.modules, "scikit_build_core", package)
    monkeypatch.setitem(sys.modules, "scikit_build_core.build", play)
    monkeypatch.setitem(sys.modules, "cuda_toolchain", cuda_toolchain)
    monkeypatch.setattr(cuda_toolchain, "requirements", lambda environ: ["nvidia-cuda-nvcc"])
    for name in ("DGR_CUDA", "DGR_CUDA_FAILURE"):
        monkeypatch.setenv(name, "")  # so that what the backend sets is undone
        monkeypatch.delenv(name)
    return load("dgr_build"), play


class TestBackend:
    """pip's view; scikit-build-core, which is not installed beside the tests, is played."""

    @pytest.fixture
    def backend(self, monkeypatch):
        module, play = load_backend(monkeypatch)
        monkeypatch.setattr(module, "check_compiler", lambda environ: None)
        return module, play

    def test_adds_the_compiler(self, backend):
        assert backend[0].get_requires_for_build_wheel() == ["ninja", "nvidia-cuda-nvcc"]
        assert backend[0].build_sdist("out") == "sdist"

    def test_a_failed_build_is_done_again_without_cuda(self, backend, capsys):
        module, play = backend
        seen = []

        def build(*arguments):
            seen.append(os.environ.get("DGR_CUDA"))
            if len(seen) == 1:
                raise SystemExit(1)
            return "wheel"

        play.build_wheel = build
        assert module.build_wheel("out") == "wheel"
        assert seen == [None, "0"]
        assert "Building again without CUDA" in capsys.readouterr().err

    @pytest.mark.parametrize("value", ["0", "1"])
    def test_a_forced_build_fails_where_it_fails(self, backend, monkeypatch, value):
        module, play = backend
        monkeypatch.setenv("DGR_CUDA", value)
        play.build_wheel = lambda *arguments: sys.exit("broken")
        with pytest.raises(SystemExit, match="broken"):
            module.build_wheel("out")

    def test_a_bad_value_is_one_line(self, backend, monkeypatch):
        monkeypatch.setenv("DGR_CUDA", "yes")
        with pytest.raises(SystemExit, match=r"^DGR_CUDA is 'yes': expected 1 [^\n]*$"):
            backend[0].build_wheel("out")

    def test_malformed_architectures_are_one_line(self, backend, monkeypatch, tmp_path):
        monkeypatch.setenv("CUDACXX", str(write_nvcc(tmp_path, "13.0")))
        monkeypatch.setenv("DGR_CUDA_ARCHS", "8.6")
        with pytest.raises(SystemExit, match=r"^DGR_CUDA_ARCHS has '8.6': expected [^\n]*$"):
            backend[0].build_wheel("out")
        monkeypatch.setenv("CUDACXX", "/no/nvcc")
        assert backend[0].build_wheel("out") == "wheel"


class TestCompiler:
    """Without a C++20 compiler the build ends with one line that says what is needed."""

    NEEDED = (
        r"^diff-gaussian-rasterization needs a C\+\+20 compiler \(g\+\+ 11 or newer, or clang\+\+ 14 or newer\): {}; "
        r"install one, or name one with CXX=/path/to/g\+\+$"
    )

    @pytest.fixture
    def backend(self, monkeypatch):
        return load_backend(monkeypatch)[0]

    @pytest.fixture
    def empty_path(self, tmp_path, monkeypatch):
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        return tmp_path

    @pytest.mark.parametrize("hook", ["get_requires_for_build_wheel", "get_requires_for_build_editable"])
    def test_none(self, backend, empty_path, hook):
        reason = r"there is no c\+\+, g\+\+ or clang\+\+ in PATH"
        with pytest.raises(SystemExit, match=self.NEEDED.format(reason)):
            getattr(backend, hook)()
        with pytest.raises(SystemExit, match=self.NEEDED.format(reason)):
            backend.build_wheel("out")

    def test_a_named_one_that_does_not_exist(self, backend, empty_path, monkeypatch):
        monkeypatch.setenv("CXX", "g++-99 -m64")
        with pytest.raises(SystemExit, match=self.NEEDED.format(r"CXX=g\+\+-99 -m64 does not exist")):
            backend.build_wheel("out")

    def test_one_that_is_too_old(self, backend, empty_path):
        old = empty_path / "c++"
        old.write_text("#!/bin/sh\nexit 1\n")
        old.chmod(0o755)
        with pytest.raises(SystemExit, match=self.NEEDED.format(r"c\+\+ does not compile C\+\+20")):
            backend.build_wheel("out")

    @pytest.mark.skipif(GXX is None, reason="no g++")
    def test_a_named_one_outside_path(self, backend, empty_path, monkeypatch):
        monkeypatch.setenv("CXX", f"{GXX} -O1")
        backend.check_compiler({**os.environ, "PATH": f"{empty_path}:{os.path.dirname(GXX)}"})
        assert backend.build_wheel("out") == "wheel"

    @pytest.mark.skipif(GXX is None, reason="no g++")
    def test_python_without_headers(self, backend, monkeypatch, tmp_path):
        monkeypatch.setattr(backend.sysconfig, "get_config_var", lambda name: str(tmp_path))
        with pytest.raises(SystemExit, match=f"needs Python's headers, and {tmp_path} has no Python.h: install"):
            backend.build_wheel("out")


class TestForCMake:
    """What CMakeLists.txt includes, and the one line where it can't go on."""

    def run(self, folder: Path, **environ: str) -> subprocess.CompletedProcess:
        base = {name: value for name, value in os.environ.items() if not name.startswith("DGR_")}
        command = [
            sys.executable,
            BACKEND / "cuda_toolchain.py",
            "--cmake",
            folder / "a.cmake",
            "--json",
            folder / "a.json",
        ]
        return subprocess.run(command, env=base | environ, capture_output=True, text=True, timeout=120)

    def test_cpu_only(self, tmp_path):
        done = self.run(tmp_path, DGR_CUDA="0")
        assert done.returncode == 0 and "dgr_nvcc" not in (tmp_path / "a.cmake").read_text()
        report = json.loads((tmp_path / "a.json").read_text())
        assert report == {"cuda": None, "reason": "DGR_CUDA=0 selects the CPU only"}

    def test_a_broken_nvcc_is_no_failure(self, tmp_path):
        assert self.run(tmp_path, CUDACXX="/no/nvcc").returncode == 0
        assert "/no/nvcc does not run" in json.loads((tmp_path / "a.json").read_text())["reason"]

    @pytest.mark.parametrize(
        "environ, message",
        [
            ({"DGR_CUDA": "1", "CUDACXX": "/no/nvcc"}, "/no/nvcc does not run"),
            ({"DGR_CUDA": "maybe"}, "DGR_CUDA is 'maybe': expected 1"),
        ],
    )
    def test_forced_or_malformed(self, tmp_path, environ, message):
        done = self.run(tmp_path, **environ)
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert message in done.stderr and "Traceback" not in done.stderr

    @pytest.mark.parametrize(
        "gpus, code, message", [(one_gpu(90), 0, ""), (NO_GPU, 2, "no driver"), (Gpus((13, 0)), 2, "finds none")]
    )
    def test_is_there_a_gpu(self, monkeypatch, capsys, gpus, code, message):
        monkeypatch.setattr(cuda_toolchain, "detect_gpus", lambda: gpus)
        monkeypatch.setattr(sys, "argv", ["cuda_toolchain.py", "--gpu"])
        assert cuda_toolchain.main() == code
        assert message in capsys.readouterr().err

    def test_a_toolchain_in_full(self, tmp_path):
        nvcc = write_nvcc(tmp_path, "12.4")
        assert self.run(tmp_path, CUDACXX=str(nvcc), DGR_CUDA="1", DGR_CUDA_ARCHS="80-real;90").returncode == 0
        text = (tmp_path / "a.cmake").read_text()
        assert f"set(dgr_nvcc [==[{nvcc}]==])" in text and "code=sm_80;-gencode" in text
        report = json.loads((tmp_path / "a.json").read_text())["cuda"]
        assert (report["nvcc"], report["architectures"]) == ("12.4", ["80-real", "90"])


@pytest.fixture(scope="module")
def toolchain():
    environ = {name: value for name, value in os.environ.items() if name != "DGR_CUDA"}
    try:
        return cuda_toolchain.find({**environ, "DGR_CUDA_ARCHS": "90"}, NO_GPU)
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda path: path.name)
def test_kernels_compile_without_a_warning(kernel, toolchain, tmp_path):
    """Every source of the CUDA engine, with the flags of the build; needs no GPU."""
    command = [toolchain.nvcc, *toolchain.flags, "-Werror", "all-warnings", "-c", kernel, "-o", tmp_path / "kernel.o"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
