# Every target makes the environment it needs. `make help` lists them.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export OMP_NUM_THREADS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test check repro serve mlflow images bench card

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(STAMP)  ## the whole line on this machine: prompts to a promoted release, with its report
	@$(BIN)/python -m pipelines run

test: $(STAMP)  ## all tests
	@$(BIN)/python -m pytest -n 2

check: $(STAMP)  ## style, arrows between modules, manifests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	@$(BIN)/lint-imports --no-logo --no-cache
	@if command -v kubectl > /dev/null; then \
		for overlay in kind ltx2; do kubectl kustomize k8s/overlays/$$overlay > /dev/null && echo "k8s/overlays/$$overlay builds"; done; \
	else echo "kubectl is not installed: the manifests were not built"; fi

repro: $(STAMP)  ## the data and model lines under DVC; does only what changed
	@PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro

serve: $(STAMP)  ## the promoted release behind KServe, on http://localhost:8080
	@$(BIN)/dubmill serve --backbone work/backbone --release work/release --host 127.0.0.1

mlflow: $(STAMP)  ## MLflow's pages on the runs of this folder, on http://localhost:5000
	@$(BIN)/mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
		--backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" --artifacts-destination mlartifacts

images:  ## the container images (needs Docker)
	docker build -f components/Containerfile -t dubmill/tools:0.1.0-cpu .
	docker build -f components/Containerfile.gpu -t dubmill/gpu:0.1.0-cuda .
	docker build -f components/Containerfile.predictor -t dubmill/predictor:0.1.0-cpu .

bench: $(STAMP)  ## every benchmark, one after the other
	@for file in benchmarks/*.py; do echo "== $$file" && $(BIN)/python $$file || exit 1; done

card: $(STAMP)  ## the figures and pictures of the embedded nano backbone, measured now (docs/nano-card.md)
	@$(BIN)/python -m dubmill.nano_card

# pip takes torch 2.13.0 from where it is told to. PyPI's wheel carries CUDA (some GB); the small CPU wheel:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || { \
		echo "$(PYTHON) is not installed; install Python 3.11, or say where one is: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
		echo "$(PYTHON) is not Python 3.11 to 3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || { \
		echo "$(PYTHON) cannot make environments; install its venv package (Debian: python3.11-venv)" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making .venv"; $(PYTHON) -m venv .venv; }
	@echo "installing (some minutes the first time)"
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
