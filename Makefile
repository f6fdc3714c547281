# make demo    set up, train a small model on synthetic tissue, classify unseen regions
# make check   style, types and the tests that are not slow, on Transformers 5: under 3 minutes, before every commit
# make test    set up and run every test on Transformers 5 and 4: before every push
# make lint    style, docstrings, types
# make bench   measure every row of benchmarks/ on the CPU, or make bench-gpu on a GPU

PYTHON ?= python3
TORCH := torch==2.13.0
HERE := $(CURDIR)
PY := .venv/bin/python
PY4 := .venv-tf4/bin/python
PY8 := .venv-int8/bin/python

.PHONY: demo check test lint bench bench-gpu env env-tf4 env-int8 clean

demo: env
	$(PY) -m spider_tools.demo $(if $(IMAGE),--image "$(IMAGE)") $(if $(MODEL),--model "$(MODEL)")

# A GPU needs the CUDA build. Elsewhere the CPU build is wanted, where the package index has it.
env: .venv/installed
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	if command -v nvidia-smi >/dev/null; then $(PY) -m pip install -q --no-compile $(TORCH); \
	else $(PY) -m pip install -q --no-compile "$(TORCH)+cpu" 2>/dev/null || { \
	echo "Your package index has no CPU build of PyTorch: taking the default one, several GB."; \
	$(PY) -m pip install -q --no-compile $(TORCH); }; fi
	$(PY) -m pip install -q --no-compile -c constraints.txt -e ".[app,dev,export,jpeg,lora,outputs,retrieval,slides]"
	touch $@

# The other environments hold only what differs and find the rest, torch included, in the first. torchao, for int8, is
# kept apart because Transformers imports it wherever it is installed, and it then complains about missing GPU parts.
env-tf4: .venv-tf4/installed
env-int8: .venv-int8/installed
.venv-tf4/installed: constraints-transformers4.txt
.venv-int8/installed: constraints-int8.txt
.venv-%/installed: .venv/installed
	$(PYTHON) -m venv .venv-$*
	$(PY) -c "import sysconfig; print(sysconfig.get_path('purelib'))" > shared-$*.pth.tmp
	mv shared-$*.pth.tmp "$$(.venv-$*/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/shared.pth"
	.venv-$*/bin/python -m pip install -q --no-compile --no-deps -r $(filter constraints-%,$^)
	touch $@

# Two workers with one thread each: most of a test is not parallel. Three take longer on two cores.
PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# What Transformers 4 has no part in: rooms that do not import it (tests/test_layers.py), slides and retrieval but for
# whole runs of segment_slide.py, uploads, figures, the page, whose gradio needs Transformers 5, what is about processes
# and packages, exports but for what model_files/test_graphs.py asks of them, and scripts that are run once more for what
# other tests ask of it. Sources that are verified, and bare copies, run in both environments from here.
NOT_ON_4 := $(addprefix --ignore=tests/,annotations building data demo export retrieval web_app test_benchmarks.py \
	test_ctrl_c.py test_examples.py test_hugging_face_home.py test_output_folder.py test_processes.py \
	test_scripts.py test_wheel.py test_warm_python.py test_workers.py embeddings/test_embedder.py \
	embeddings/test_precompute.py embeddings/test_precompute_in_processes.py embeddings/test_reading_in_threads.py \
	embeddings/test_precompute_workers.py evaluation/test_bootstrap.py evaluation/test_calibration.py \
	evaluation/test_conformal.py evaluation/test_confusion_matrix.py evaluation/test_evaluate_library.py \
	evaluation/test_few_shot.py evaluation/test_imported_models.py evaluation/test_limits.py evaluation/test_prototypes.py \
	evaluation/test_region_dtypes.py evaluation/test_risk_coverage.py evaluation/test_robustness.py \
	evaluation/test_temperature.py training/test_calibrated_models.py training/test_views.py \
	publishing/test_endpoint.py publishing/test_load_check.py publishing/test_published_already.py \
	publishing/test_publishing_folder.py publishing/test_space.py publishing/test_upload.py \
	publishing/test_upload_refusals.py slides/test_backbone_clock.py slides/test_slides_side_by_side.py \
	training/test_resuming.py training/test_training_script.py weights/test_verification.py weights/test_verify_command.py) \
	--ignore-glob='*/slides/test_slide_*.py' $(addprefix --deselect=tests/,\
	evaluation/test_evaluation.py::test_the_script_gives_the_same_report_with_one_process_and_with_two \
	model_files/test_readout.py::test_saved_heads_give_the_same_in_a_bare_copy_under_either_version \
	publishing/test_publish.py::test_training_publishes_its_model_and_no_path_of_this_machine \
	slides/test_segment_slide.py::test_a_run_that_is_killed_goes_on_where_it_was \
	slides/test_segment_slide.py::test_two_processes_share_the_slides)

check: lint
	OMP_NUM_THREADS=1 $(PY) $(PYTEST) -q -m "not slow"

test: env env-tf4 env-int8
	OMP_NUM_THREADS=1 SPIDER_OTHER_PYTHON=$(HERE)/$(PY4) $(PY) $(PYTEST)
	OMP_NUM_THREADS=1 SPIDER_OTHER_PYTHON=$(HERE)/$(PY) $(PY4) $(PYTEST) $(NOT_ON_4)
	$(PY8) -m pytest tests/embeddings/test_int8.py

# The machine must have nothing else to do.
bench: env env-int8
	$(PY) -m benchmarks
	$(PY8) -m benchmarks int8

bench-gpu: env
	$(PY) -m benchmarks --device cuda

lint: env
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean:
	rm -rf .venv .venv-tf4 .venv-int8 demo build dist shared-*.pth.tmp *.egg-info
	rm -rf .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
