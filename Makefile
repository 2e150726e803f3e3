VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

.PHONY: demo test check bench bench-specimen bench-noise bench-reconstruction bench-training clean default-model

$(VENV)/.installed: pyproject.toml constraints.txt
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

clean:
	rm -rf $(VENV) demo

# How the default model was made (docs/default-model.md); about two hours on two cores.
RECIPE = --config configs/default-model.yaml
SPECIES = $(if $(MAPS),--structures $(MAPS)) $(if $(MEMBRANE_MAPS),--membrane-structures $(MEMBRANE_MAPS))
SIMULATE = $(BIN)/cryomend simulate $(RECIPE) $(SPECIES) --workers 2

default-model: $(VENV)/.installed
	mkdir -p work
	$(SIMULATE) --count 260 --seed 0 -o work/pairs-1
	$(SIMULATE) --count 200 --seed 1000 -o work/pairs-2
ifdef NOISE_STACK
	$(BIN)/cryomend noise extract $(NOISE_STACK) --patch 64 -o work/noise.h5
	$(BIN)/cryomend noise fit work/noise.h5 --model spectral -o work/noise.safetensors
	$(SIMULATE) --count 46 --seed 4000 --noise work/noise.safetensors -o work/pairs-2
endif
	$(BIN)/cryomend train work/pairs-1 $(RECIPE) --max-minutes 48 -o work/first.safetensors
	$(BIN)/cryomend train work/pairs-2 $(RECIPE) --start-from work/first.safetensors --max-minutes 15 -o work/default.safetensors
