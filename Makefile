# make demo    set up, train a small model on synthetic tissue, classify unseen regions
# make test    set up and run every test on Transformers 5 and 4
# make lint    style, docstrings, types

PYTHON ?= python3
TORCH := torch==2.13.0
HERE := $(CURDIR)
PY := .venv/bin/python
PY4 := .venv-tf4/bin/python

.PHONY: demo test lint env env-tf4 clean

demo: env
	$(PY) -m spider_tools.demo $(if $(IMAGE),--image "$(IMAGE)") $(if $(MODEL),--model "$(MODEL)")

# A GPU needs the CUDA build. Elsewhere the CPU build is wanted, where the package index has it.
env: .venv/installed
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	if command -v nvidia-smi >/dev/null; then $(PY) -m pip install -q $(TORCH); \
	else $(PY) -m pip install -q "$(TORCH)+cpu" 2>/dev/null || { \
	echo "Your package index has no CPU build of PyTorch: taking the default one, several GB."; \
	$(PY) -m pip install -q $(TORCH); }; fi
	$(PY) -m pip install -q -c constraints.txt -e ".[dev,lora,slides]"
	touch $@

# The second environment holds only what differs and finds the rest, torch included, in the first.
env-tf4: .venv-tf4/installed
.venv-tf4/installed: .venv/installed constraints-transformers4.txt
	$(PYTHON) -m venv .venv-tf4
	$(PY) -c "import sysconfig; print(sysconfig.get_path('purelib'))" > shared.pth.tmp
	mv shared.pth.tmp "$$($(PY4) -c "import sysconfig; print(sysconfig.get_path('purelib'))")/shared.pth"
	$(PY4) -m pip install -q --no-deps -r constraints-transformers4.txt
	touch $@

# Two workers with one thread each: most of a test is not parallel.
PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: env env-tf4
	OMP_NUM_THREADS=1 SPIDER_OTHER_PYTHON=$(HERE)/$(PY4) $(PY) $(PYTEST)
	OMP_NUM_THREADS=1 SPIDER_OTHER_PYTHON=$(HERE)/$(PY) $(PY4) $(PYTEST)

lint: env
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean:
	rm -rf .venv .venv-tf4 demo runs build *.egg-info
