# Everything a person types. Each target sets up what it needs in a virtual environment of its own and can be run again
# at any time. The packages under submodules/ are installed again when their sources have changed.
#
#   make demo     a scene that the project makes itself: train, render, measure, compress, and a picture at the end
#   make test     lint and the whole test suite (TEST_DATA=folder adds the tests on real captures)
#   make sanitize both engines' tests on builds with AddressSanitizer, UndefinedBehaviorSanitizer, ThreadSanitizer
#   make fuzz     inputs that a fuzzer finds, for SECONDS=60; findings are files, and the exit code says if there are any
#   make bench    the rasterizer's speed, the instructions of its innermost loops (CUDA: with nvcc), seconds of each --help
#   make docs     the site of docs/, into build/docs
#   make gpu-check   on a machine with a GPU: tests, speed, training, in MINUTES; the results go to OUT=folder
#   make example  docs/example.html anew: the page that make demo writes
#   make viewer-bundle   the script of the pages that view.py --html writes, anew from viewer/web (needs npm)
#   make lint     ruff and mypy
#   make wheels   what pip needs to install compact-splats without a compiler, into OUT=dist (CUDA=0: without CUDA)
#   make try-wheels   installs them as a stranger would, without a compiler, and runs the demo
#   make clean    remove the environment and everything built; output/ stays
#
# Variables: PYTHON (3.10 or later), VENV (folder of the environment), and TORCH=system to use the torch that the
# machine's Python has, a CUDA build for example, instead of the pinned one: make test TORCH=system VENV=.venv-system
# WHEELS=folder installs without a network: what PYTHON has, in the versions it has, and the rest from that folder.
# TEST_JOBS=4 runs so many files of tests at once (0: in one process); each takes a core or two, and 2 GB.
# The engine's own variables (DGR_CUDA, DGR_CUDA_ARCHS, ...) are in submodules/diff-gaussian-rasterization/README.md.

PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= output/demo
DEMO_BUDGET ?= 20000
DEMO_ITERATIONS ?= 2500
TEST_JOBS ?= 2

BIN := $(VENV)/bin
PIP_OPTIONS := --quiet --disable-pip-version-check
PINS := cat
ifeq ($(TORCH),system)
PINS := grep -v '^torch=='
endif
ifneq ($(WHEELS),)
PIP_OPTIONS += --no-index --find-links $(WHEELS) --no-build-isolation
endif
# Python compiles what it imports when it first does: a small part of all that is installed.
PIP := $(BIN)/python -m pip install --no-compile $(PIP_OPTIONS)
SUBMODULES := diff-gaussian-rasterization simple-knn
BUILT := $(SUBMODULES:%=$(VENV)/wheels/%.stamp)

# A package's stamp is older than its newest source file exactly when it has to be installed again.
sources = $(shell find submodules/$(1) -type f -not -path '*/build/*' -not -path '*.egg-info/*' -not -name '*.pyc')

.PHONY: setup setup-dev demo test sanitize fuzz bench docs gpu gpu-check viewer-bundle example lint wheels try-wheels clean
.DELETE_ON_ERROR:

# The submodules are compiled while pip fetches and unpacks the requirements.
setup:
	@+$(MAKE) --no-print-directory -j2 $(VENV)/submodules.stamp $(VENV)/package.stamp

# What developers need besides.
setup-dev: setup $(VENV)/dev.stamp

$(VENV)/created.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "$(PYTHON) is Python %d.%d: 3.10 or later is needed, name one with PYTHON=..." % sys.version_info[:2])'
ifeq ($(TORCH),system)
	$(PYTHON) -m venv --system-site-packages $$($(PYTHON) -m pip --version >/dev/null 2>&1 && echo --without-pip) $(VENV)
	@# If PYTHON is of a virtual environment itself, the line above means the Python below it, and not its packages.
	@$(PYTHON) -c 'import sys; print(*[p for p in sys.path if p.endswith("-packages")], sep="\n")' \
	    >"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/system.pth"
else
	$(PYTHON) -m venv $(VENV)
endif
	@touch $@

$(VENV)/requirements.stamp: $(VENV)/created.stamp requirements.txt requirements-lpips.txt
ifneq ($(WHEELS),)
	$(PIP) --no-deps $(wildcard $(WHEELS)/*.whl)
	@# Versions are left open, and what is nowhere to be had is named: not every command needs everything.
	@cat requirements*.txt | $(BIN)/python -c 'import sys, re; from importlib.metadata import distributions; \
	    names = {re.match(r"[\w-]+", line)[0] for line in sys.stdin if line.strip() and line[0] != "#"}; \
	    missing = names - {re.sub("_", "-", each.name.lower()) for each in distributions()}; \
	    print("left out, as neither $(PYTHON) nor $(WHEELS) has it:", *sorted(missing)) if missing else None'
else
	$(PINS) requirements.txt >$(VENV)/pins.txt
	$(PIP) -r $(VENV)/pins.txt
	$(PIP) --no-deps -r requirements-lpips.txt
endif
	@touch $@

$(VENV)/dev.stamp: $(VENV)/requirements.stamp requirements-dev.txt requirements-ray.txt
ifeq ($(WHEELS),)
	$(PIP) -r $(VENV)/pins.txt -r requirements-dev.txt -r requirements-ray.txt
endif
	@touch $@

$(foreach name,$(SUBMODULES),$(eval $(VENV)/wheels/$(name).stamp: $(call sources,$(name))))
$(BUILT): $(VENV)/wheels/%.stamp: $(VENV)/created.stamp $(if $(WHEELS),$(VENV)/requirements.stamp)
	rm -rf $(VENV)/wheels/$*
	$(BIN)/python -m pip wheel --no-deps $(PIP_OPTIONS) -w $(VENV)/wheels/$* ./submodules/$*
	@touch $@

$(VENV)/submodules.stamp: $(VENV)/requirements.stamp $(BUILT)
	$(PIP) --no-deps --force-reinstall $(VENV)/wheels/*/*.whl
	@touch $@

# import compact_splats and the command compact-splats, from any folder. The scripts here do not need it.
$(VENV)/package.stamp: $(VENV)/requirements.stamp pyproject.toml setup.py
ifeq ($(WHEELS),)
	$(PIP) --no-deps --editable .
endif
	@touch $@

demo: setup
	rm -rf $(OUTPUT)/scene
	$(BIN)/python -m compact_splats.demo.run --out $(OUTPUT) --iterations $(DEMO_ITERATIONS) --final-budget $(DEMO_BUDGET)

example: demo
	cp $(OUTPUT)/model.html docs/example.html

test: setup-dev lint
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile

sanitize: setup-dev
	$(BIN)/python tests/sanitize.py

fuzz: setup-dev
	$(BIN)/python tests/engine_fuzzer.py --seconds $(or $(SECONDS),60)

bench: setup
	$(BIN)/python -m benchmarks.rasterizer
	$(BIN)/python -m benchmarks.instructions
	$(BIN)/python -m benchmarks.cuda_counts
	$(BIN)/python -m benchmarks.start

docs: setup-dev
	$(BIN)/python -m sphinx -q -W --keep-going -c docs/site docs build/docs
	@echo "build/docs/index.html"

# Asks before the set-up, which takes minutes. DEVICE=cpu QUICK=1 tries the script itself, on the CPU.
gpu:
	@[ "$(DEVICE)" = cpu ] || $(PYTHON) submodules/diff-gaussian-rasterization/build_backend/cuda_toolchain.py --gpu

gpu-check: gpu setup-dev
	$(BIN)/python -m benchmarks.gpu_check --out $(or $(OUT),output/gpu-check) --device $(or $(DEVICE),cuda) $(if $(QUICK),--quick) \
	    $(if $(MINUTES),--minutes $(MINUTES))

viewer-bundle:
	compact_splats/viewer/web/build.sh

# mypy sees the folders of the checkout where a wheel has them, below compact_splats.
lint: $(VENV)/dev.stamp
	$(BIN)/python -m ruff check .
	@rm -rf build/typed && mkdir -p build/typed && cp -rs $(CURDIR)/compact_splats build/typed/
	@cp -rs $(CURDIR)/arguments $(CURDIR)/scene $(CURDIR)/gaussian_renderer $(CURDIR)/utils build/typed/compact_splats/
	cd build/typed && $(abspath $(BIN))/python -m mypy --config-file ../../pyproject.toml -p compact_splats

# For every processor. A package is built from its sdist, so that a sdist that lacks something is noticed. On Linux
# auditwheel names the systems on which the engine runs; it has no libraries to add.
DIST := $(or $(OUT),dist)
wheels: export DGR_ARCH := portable
wheels: export DGR_CUDA := $(or $(CUDA),1)
wheels: $(VENV)/created.stamp
	$(PIP) -r requirements-wheels.txt
	rm -rf build/wheels && mkdir -p $(DIST)
	for each in . $(SUBMODULES:%=submodules/%); do $(BIN)/python -m build --outdir build/wheels $$each || exit 1; done
	for wheel in build/wheels/*-linux_*.whl; do \
	    PATH=$(abspath $(BIN)):$$PATH auditwheel repair --wheel-dir $(DIST) $$wheel && rm $$wheel || exit 1; done
	mv build/wheels/* $(DIST)/
	@ls -l $(DIST)

try-wheels:
	$(PYTHON) tests/try_wheels.py $(DIST) $(if $(WHEELS),--wheelhouse $(WHEELS))

clean:
	rm -rf $(VENV) submodules/*/build submodules/*/*.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
