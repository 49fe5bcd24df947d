# the recipes of this project; run one with: uv run just NAME

set positional-arguments

python := "python"
# the tests of what is deployed: image, chart, alerts, releases, the scale plan, rolling updates, restarts in place
deploy_tests := "tests/deploy tests/ci tests/scale tests/drills tests/e2e/test_restart.py tests/host/test_handover.py tests/host/test_systemd.py"

# list the recipes
default:
    @{{just_executable()}} --list

# run all tests in four processes; arguments go to pytest
test *arguments:
    {{python}} -m pytest -q --numprocesses 4 --dist worksteal --max-worker-restart 0 "$@"

# run the tests without the folders that start other programs, for quick checks; arguments go to pytest
test-fast *arguments:
    {{python}} -m pytest -q --numprocesses 4 --dist worksteal --max-worker-restart 0 \
        --ignore tests/chaos --ignore tests/ci --ignore tests/cli --ignore tests/connectors --ignore tests/deploy \
        --ignore tests/differential --ignore tests/docs --ignore tests/drills --ignore tests/e2e --ignore tests/flyte_sdk --ignore tests/flytekit_sdk --ignore tests/interop \
        --ignore tests/processes --ignore tests/type_checks --ignore tests/test_time_limit.py --ignore tests/tracing/test_export.py "$@"

# raise the real errors of vendors' clients, in an environment of their own
test-clients *arguments:
    UV_PROJECT_ENVIRONMENT=.venv-clients uv run --quiet --no-dev --group clients \
        python -m pytest -q --numprocesses 4 --dist worksteal tests/connector/test_real_clients.py "$@"

# check style and formatting
lint:
    ruff check
    ruff format --check

# check types: the package, and with mypy and pyright, as strict as they can be, the programs of users
types:
    mypy
    {{python}} tests/type_checks/checkers.py

# regenerate the betterproto stubs from protos/
gen:
    {{python}} protos/generate.py

# write the Grafana dashboard into the Helm chart
dashboard:
    {{python}} deploy/monitoring/dashboard.py

# start a host, run one query through it, and stop
demo *arguments:
    connectrio demo "$@"

# host the installed connectors; arguments go to connectrio serve
serve *arguments:
    connectrio serve "$@"

# lock what the container image may hold to versions and hashes: deploy/constraints.txt
constraints *arguments:
    uv pip compile pyproject.toml --quiet --universal --python-version 3.13 --generate-hashes --no-header \
        --group image --extra duckdb --extra flyte --extra flytekit --extra fsspec --extra otel --extra postgres \
        --extra trio --extra uvloop --output-file deploy/constraints.txt "$@"

# build the image of the host, and one of c0, and measure their size and start; see docs/how-to/image.md
image-size *arguments:
    PYTHONPATH=tests {{python}} tests/bench/image.py "$@"

# build the documentation site into site/; arguments go to mkdocs build
docs *arguments:
    NO_MKDOCS_2_WARNING=1 uv run --quiet --inexact --group docs mkdocs build --strict "$@"

# show the documentation site at http://127.0.0.1:8001 while you write
docs-serve:
    NO_MKDOCS_2_WARNING=1 uv run --quiet --inexact --group docs mkdocs serve --livereload --dev-addr 127.0.0.1:8001

# sort imports and format the code
format:
    ruff check --fix --select I
    ruff format

# measure speed beside flyte-sdk's own host and other peers; --help lists the options
bench *arguments:
    {{python}} tests/bench/run.py "$@"

# compare the JSON file of a bench run with the targets for speed
targets figures:
    {{python}} tests/bench/targets.py "$@"

# measure how much time each layer of the code takes of a call; --help lists the options
layers *arguments:
    {{python}} tests/bench/layers.py "$@"

# measure one host, and simulate executors, replicas and vendors for up to a million jobs; --help lists the options
scale *arguments:
    PYTHONPATH=tests {{python}} -m scale "$@"

# test against other implementations: h2spec, grpc-go, grpcio, grpcurl; arguments go to pytest
interop *arguments:
    {{python}} -m pytest tests/interop tests/rpc/reflection tests/rpc/tls tests/rpc/client "$@"

# walk the paths of new users in fresh environments, with the built wheel, from the package index; arguments name paths
paths *arguments:
    PYTHONPATH=tests {{python}} -m paths "$@"

# attack a host, restart it under load, kill its clients, and check that a good client is served; see docs/explanation/drills.md
drills *arguments:
    PYTHONPATH=tests {{python}} -m drills "$@"

# install the other implementations that are Go programs, with `go install`
interop-tools:
    go install github.com/summerwind/h2spec/cmd/h2spec@latest
    go install google.golang.org/grpc/interop/client@latest
    go install google.golang.org/grpc/interop/server@latest
    go install google.golang.org/grpc/interop/http2@latest
    go install github.com/fullstorydev/grpcurl/cmd/grpcurl@latest
    go install github.com/grpc-ecosystem/grpc-health-probe@latest

# install the tools that check deploy/, with `go install`
deploy-tools:
    go install helm.sh/helm/v3/cmd/helm@v3.22.0

# install the tools for it, and run the tests of all that is deployed, as `deploy_tests` lists them; options go to pytest
deploy-check *arguments:
    @{{just_executable()}} deploy-tools || echo "not all tools could be installed; the tests that need them are skipped"
    @{{just_executable()}} test {{deploy_tests}} "$@"

# make a release: version, changelog, build, trials in fresh environments, commit and tag; uploads nothing
release *arguments:
    uv run --quiet --inexact --group docs --group release python .ci/release.py "$@"

# ask which vulnerabilities are known of the dependencies; arguments are files of pinned requirements
audit *arguments:
    uv run --quiet --inexact --group release python .ci/audit.py "$@"

# run all checks: style, types, tests, the built package
ci:
    .ci/run
