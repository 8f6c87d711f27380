# make demo      set up and run recipe tiny_acereason_cpu to its report
# make test      set up and run linters, types and tests
# make clean     remove environments and build files; runs stay
# make test-gpu  the tests that need a CUDA device, in the environment that is active
# make bench-gpu the benchmarks on a CUDA device, one line of JSON each
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-gpu bench-gpu lint clean

demo: $(VENV)/.ready
	$(BIN)/acereason run tiny_acereason_cpu --out runs/demo

test:
	@$(MAKE) --no-print-directory -j3 $(VENV)/.ready .venv-launch/.ready .venv-nemo/.ready
	bash scripts/system_packages.sh
	bash scripts/check.sh

lint: $(VENV)/.ready
	bash scripts/check.sh lint

test-gpu:
	python3 -m pytest tests/gpu -m gpu

bench-gpu:
	python3 benchmarks/logprob.py --device cuda
	python3 benchmarks/refit.py --device cuda
	python3 benchmarks/step.py --device cuda

$(VENV)/.ready: scripts/setup_env.sh scripts/python_env.sh requirements/cpu.txt pyproject.toml
	bash scripts/setup_env.sh $(VENV)

.venv-%/.ready: scripts/setup_%.sh scripts/python_env.sh requirements/%.txt pyproject.toml
	bash scripts/setup_$*.sh

clean:
	rm -rf .venv .venv-launch .venv-nemo .venv-trl .venv-megatron-* .venv-bridge-* build *.egg-info
