# `make demo` shows the main job, `make test` passes the tests; the rest is for people who work on Coracle.
.PHONY: demo test setup build release bench soak guards guests lint
.DEFAULT_GOAL := help

help:
	@echo "make demo     build, start a cluster, run init containers, web servers behind a service, three bad neighbours and three nodes, stop"
	@echo "make test     every test (the first time fetches kubectl, a registry, compilers and programs into a cache: some 400 MB)"
	@echo "make setup    install what build and tests need (libclang, protoc, ip, nft, …), skipping what is there"
	@echo "make release  coracle and coracle-node, optimised"
	@echo "make bench    pod start, idle memory, what starting and limiting guests, network, HTTP, the way between nodes and being told cost, and how soon a lost node is noticed (slow: release build; wasmtime is built once to compare with)"
	@echo "make soak     storms of SOAK_CYCLES pods (1000), SOAK_ADDRESSES pods (1000) on the same few addresses, kills and churn for SOAK_ROUNDS rounds (50), connections and datagrams between nodes while nodes and server are struck SOAK_STRIKES times (150) and the server is away for SOAK_AWAY seconds (300; once silent, once dead): hours, looking for losses and leaks"
	@echo "make guards   take each guard against hostile guests out of a copy and see its tests fail (slow: each costs a rebuild; GUARDS=WORD: some)"
	@echo "make guests   rebuild the committed .wasm files from their sources (needs the target wasm32-wasip2)"

setup:
	@scripts/setup.sh

# The whole workspace, as the tests build it: one crate alone would resolve other features of shared dependencies.
build: setup
	@echo "building (the first time compiles RocksDB and wasmtime: about twenty minutes on two cores)"
	@cargo build --locked --workspace

demo: build
	@scripts/demo.sh

test: build
	@scripts/test.sh

release: setup
	@cargo build --locked --release -p coracle -p coracle-node

bench: release
	@scripts/bench.sh

soak: build
	@scripts/soak.sh

guards: build
	@scripts/guards.sh

guests:
	@examples/build.sh

lint:
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --locked -- -D warnings
