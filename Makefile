# The verbs. Each is one line; what it does is in infra/bin/<verb>. `make` alone lists them.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help dev test check fmt bench soak ci doctor clean

help:
	@infra/bin/help Makefile

##@ Work on it
dev: ## build and start a cell of three servers with all services; SERVERS=1 for one, FRESH=1 for new data, Ctrl-C stops it
	@infra/bin/dev
fmt: ## format all Rust code
	@cargo fmt --all
check: ## format, clippy, shellcheck and the structure rules, without changing anything
	@infra/bin/check
test: ## all tests: the workspace's, then Python and a browser from outside
	@infra/bin/test

##@ Measure it
bench: ## the measured table, beside etcd and Redis Streams; ARGS="…" goes to the benchmark
	@infra/bin/bench $(ARGS)
soak: ## hours of crash tests; SOAK_MINUTES=240 is the default
	@infra/bin/soak

##@ Look after it
doctor: ## what this machine has of what is needed, and the command for what it lacks
	@infra/bin/doctor
ci: check test ## what CI runs: check, then test
clean: ## remove target/ and .dev/, keep the fetched test tools
	@infra/bin/clean
