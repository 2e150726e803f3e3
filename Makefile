VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

.PHONY: demo test check bench bench-specimen bench-noise bench-reconstruction bench-training bench-ablation clean default-model

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV): PyTorch and what else is needed, some minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	mkdir -p demo
	$(BIN)/cryomend restore $$($(BIN)/cryomend sample) -o demo/restored.mrc --tilt-range -60 60 --report demo/report.html
	@echo "open demo/report.html"

test: $(VENV)/.installed
	$(BIN)/python -m pytest

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/held_out.py $(ARGS)

bench-specimen: $(VENV)/.installed
	$(BIN)/python benchmarks/specimen_speed.py $(ARGS)

bench-noise: $(VENV)/.installed
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python benchmarks/noise_fidelity.py $(ARGS)

bench-reconstruction: $(VENV)/.installed
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python benchmarks/reconstruction_speed.py $(ARGS)

bench-training: $(VENV)/.installed
	$(BIN)/python benchmarks/training_throughput.py $(ARGS)

bench-ablation: $(VENV)/.installed
	$(BIN)/python benchmarks/ablation.py --work work/ablation $(ARGS)

clean:
	rm -rf $(VENV) demo

# How a default model is made (docs/default-model.md): pairs without end, as long as MINUTES says.
MINUTES ?= 60
SEED ?= 0
SPECIES = $(if $(MAPS),--structures $(MAPS)) $(if $(MEMBRANE_MAPS),--membrane-structures $(MEMBRANE_MAPS))
NOISES = $(if $(NOISE_STACK),--noise work/gaussian.safetensors work/spectral.safetensors work/wgan.safetensors)

default-model: $(VENV)/.installed
	mkdir -p work
ifdef NOISE_STACK
	$(BIN)/cryomend noise extract $(NOISE_STACK) $(if $(ANGLES),--tilt-angles $(ANGLES)) --patch 64 -o work/noise.h5
	for kind in gaussian spectral wgan; do \
	  $(BIN)/cryomend noise fit work/noise.h5 --model $$kind --max-minutes 15 -o work/$$kind.safetensors || exit 1; done
endif
	$(BIN)/cryomend train --config configs/default-model.yaml --seed $(SEED) $(SPECIES) $(NOISES) $(if $(FROM),--from $(FROM)) --max-minutes $(MINUTES) -o work/fast.safetensors
