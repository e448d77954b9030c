# Every target makes the environment it needs. `make help` lists them.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export OMP_NUM_THREADS ?= 2
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/dubmill/__init__.py)
KUBERNETES := 1.34
OVERLAYS := kind ltx2 platform
# where uv reads what the CPU build of torch needs
UV_TORCH ?= --torch-backend cpu
TORCH_CUDA_INDEX ?= https://download.pytorch.org/whl/cu130

.DEFAULT_GOAL := help
.PHONY: help demo test coverage check check-k8s check-style check-types-of-networks check-types-of-rest lock repro serve mlflow images bench card evidence

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(STAMP)  ## run the whole pipeline on this machine: prompts to a promoted release, with its report
	@$(BIN)/python -m pipelines run

test: $(STAMP)  ## run all tests, and list the slowest
	@$(BIN)/python -m pytest -n 2 --durations=15

coverage: $(STAMP)  ## run all tests and measure line and branch coverage (slower; CI runs it every night)
	@$(BIN)/python -m pytest -n 2 --cov=dubmill --cov=components --cov=pipelines --cov-branch --cov-report=term:skip-covered

check: $(STAMP)  ## check style, import contracts, types and manifests, side by side
	@$(MAKE) --no-print-directory -j2 check-types-of-networks check-types-of-rest check-k8s check-style

# Two processes on two cores: what loads torch and diffusers, and what does not. A type checker reads a library once for each process.
NETWORKS := $(patsubst %,src/dubmill/%,adapters/ dubbing/ faces/ generation/ launching.py media/ model/ nano/ nano_card/ steps/ training/ worlds/)
check-types-of-networks:
	@$(BIN)/basedpyright --level error $(NETWORKS) benchmarks
check-types-of-rest:
	@$(BIN)/basedpyright --level error src/stubs components pipelines \
		$(filter-out $(NETWORKS) %/__pycache__/,$(wildcard src/dubmill/*/ src/dubmill/*.py))

check-style:
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	@$(BIN)/lint-imports --no-logo --no-cache

check-k8s: $(STAMP)  ## validate the manifests against the schemas of Kubernetes, and of the CRD files in CRDS=folder
	@mkdir -p build
	@for overlay in $(OVERLAYS); do $(BIN)/kubectl kustomize k8s/overlays/$$overlay > build/$$overlay.yaml || exit 1; done
	@$(BIN)/kubernetes-validate --strict -k $(KUBERNETES) $(OVERLAYS:%=build/%.yaml)
	@test -z "$(CRDS)" || DUBMILL_CRDS=$(CRDS) $(BIN)/python -m pytest -q tests/test_k8s.py -k custom_kinds

lock:  ## write requirements.lock from pyproject.toml and constraints.txt (needs uv)
	@uv pip compile $(UV_TORCH) pyproject.toml --extra dev -c constraints.txt --python-version 3.11 --generate-hashes \
		--no-emit-package torch --no-annotate --no-header -q -o requirements.lock

repro: $(STAMP)  ## run the steps under DVC, as far as something changed
	@PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro

serve: $(STAMP)  ## serve the promoted release with KServe, on http://localhost:8080
	@$(BIN)/dubmill serve --backbone work/backbone --release work/release --host 127.0.0.1

mlflow: $(STAMP)  ## show the MLflow runs of this folder, on http://localhost:5000
	@$(BIN)/mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
		--backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" --artifacts-destination mlartifacts

images:  ## build the container images (needs Docker)
	docker build -f components/Containerfile -t dubmill/tools:$(VERSION)-cpu .
	docker build -f components/Containerfile.gpu -t dubmill/gpu:$(VERSION)-cuda .
	docker build -f components/Containerfile.predictor -t dubmill/predictor:$(VERSION)-cpu .
	docker build -f components/Containerfile.predictor --build-arg TORCH_INDEX=$(TORCH_CUDA_INDEX) \
		-t dubmill/predictor:$(VERSION)-cuda .

# they fetch media, need a run or packages that no extra has (see benchmarks/neural_speech.py) or PYTHONPATH=tests, or make 1,000 pairs
NOT_TIMED = $(addprefix benchmarks/,neural_speech.py train_opening.py scorers.py real_set.py real_line.py gate_kill.py endpoint.py data_versions.py metrology.py shards.py evidence.py)

bench: $(STAMP)  ## run every benchmark, one after the other
	@for file in $(filter-out $(NOT_TIMED),$(wildcard benchmarks/*.py)); do echo "== $$file" && $(BIN)/python $$file || exit 1; done

evidence: $(STAMP)  ## train the ablations on nano and write docs/evidence.md (hours; QUICK=--quick takes less)
	@$(BIN)/python -m benchmarks.evidence work/evidence $(QUICK) --out docs/evidence.md

card: $(STAMP)  ## measure the embedded nano backbone and write docs/nano-card.md with figures and pictures
	@$(BIN)/python -m dubmill.nano_card

# Everything but torch comes from requirements.lock, by version and hash. torch comes by version from the index that pip is
# told of, because its CPU and CUDA builds are different files of one version. PyPI's wheel carries CUDA (some GB); the CPU one:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo
$(STAMP): pyproject.toml constraints.txt requirements.lock
	@command -v $(PYTHON) > /dev/null || { \
		echo "$(PYTHON) is not installed; install Python 3.11, or say where one is: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
		echo "$(PYTHON) is not Python 3.11 to 3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || { \
		echo "$(PYTHON) cannot make environments; install its venv package (Debian: python3.11-venv)" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making .venv"; $(PYTHON) -m venv .venv; }
	@echo "installing (some minutes the first time)"
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/pip check
	@touch $@
