# Everything a person types. Each target sets up what it needs in a virtual environment of its own and can be
# run again at any time; the packages under submodules/ are installed anew when their sources have changed.
#
#   make demo     a scene that the project makes itself: train, render, measure, and a picture at the end
#   make test     lint and the whole test suite (TEST_DATA=folder adds the tests on real captures)
#   make bench    the rasterizer's speed
#   make lint     ruff
#   make clean    remove the environment and everything built; output/ stays
#
# Variables: PYTHON (3.10 or later), VENV (folder of the environment), and TORCH=system to use the torch that the
# machine's Python has, a CUDA build for example, instead of the pinned one: make test TORCH=system VENV=.venv-system

PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= output/demo
DEMO_BUDGET ?= 20000
DEMO_ITERATIONS ?= 2500

BIN := $(VENV)/bin
ifeq ($(TORCH),system)
VENV_FLAGS := --system-site-packages
PINS := grep -v '^torch=='
else
PINS := cat
endif

# A package's stamp is older than its newest source file exactly when it has to be installed again.
sources = $(shell find submodules/$(1) -type f -not -path '*/build/*' -not -path '*.egg-info/*' -not -name '*.pyc')

.PHONY: setup demo test bench lint clean
.DELETE_ON_ERROR:

setup: $(VENV)/rasterizer.stamp $(VENV)/simple-knn.stamp

$(VENV)/created.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "$(PYTHON) is Python %d.%d: 3.10 or later is needed, name one with PYTHON=..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	@touch $@

$(VENV)/requirements.stamp: $(VENV)/created.stamp requirements.txt requirements-lpips.txt
	$(PINS) requirements.txt >$(VENV)/pins.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(VENV)/pins.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-lpips.txt
	@touch $@

$(VENV)/rasterizer.stamp: $(VENV)/requirements.stamp $(call sources,diff-gaussian-rasterization)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check ./submodules/diff-gaussian-rasterization
	@touch $@

$(VENV)/simple-knn.stamp: $(VENV)/requirements.stamp $(call sources,simple-knn)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check ./submodules/simple-knn
	@touch $@

$(OUTPUT)/scene: utils/demo_scene.py utils/ray_tracer.py utils/textures.py | setup
	rm -rf $@
	$(BIN)/python -m utils.demo_scene $@
	@touch $@

demo: setup $(OUTPUT)/scene
	$(BIN)/python train.py -s $(OUTPUT)/scene -m $(OUTPUT)/model --eval \
	    --schedule fast --iterations $(DEMO_ITERATIONS) --final-budget $(DEMO_BUDGET) --sh-rest-lr 0.02
	$(BIN)/python render.py -m $(OUTPUT)/model --skip-train
	$(BIN)/python metrics.py -m $(OUTPUT)/model
	$(BIN)/python -m utils.comparison -m $(OUTPUT)/model --out $(OUTPUT)/comparison.png
	@echo
	@echo "The scene:       $(OUTPUT)/scene"
	@echo "The Gaussians:   $(OUTPUT)/model/point_cloud/iteration_$(DEMO_ITERATIONS)/point_cloud.ply  (opens in any 3DGS viewer)"
	@echo "The figures:     $(OUTPUT)/model/results.json"
	@echo "The picture:     $(OUTPUT)/comparison.png"

test: setup lint
	$(BIN)/python -m pytest

bench: setup
	$(BIN)/python -m benchmarks.rasterizer

lint: $(VENV)/requirements.stamp
	$(BIN)/python -m ruff check .

clean:
	rm -rf $(VENV) submodules/*/build submodules/*/*.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
