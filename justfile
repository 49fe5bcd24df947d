# what can be done here; run one with: uv run just NAME

set positional-arguments

python := "python"

# list the recipes
default:
    @{{just_executable()}} --list

# run the tests, in four processes, because many of them wait for others; arguments go to pytest
test *arguments:
    {{python}} -m pytest -q --numprocesses 4 --dist worksteal --max-worker-restart 0 "$@"

# the tests without the folders that start other programs, for the inner loop; arguments go to pytest
test-fast *arguments:
    {{python}} -m pytest -q --numprocesses 4 --dist worksteal --max-worker-restart 0 \
        --ignore tests/chaos --ignore tests/cli --ignore tests/connectors --ignore tests/differential \
        --ignore tests/drills --ignore tests/e2e --ignore tests/flyte_sdk --ignore tests/interop \
        --ignore tests/processes --ignore tests/test_time_limit.py "$@"

# check style, formatting and unused code
lint:
    ruff check
    ruff format --check

# check types
types:
    mypy

# regenerate the betterproto stubs from protos/
gen:
    {{python}} protos/generate.py

# a query through a host of its own, start to end
demo *arguments:
    connectrio demo "$@"

# host the installed connectors
serve *arguments:
    connectrio serve "$@"

# put imports and formatting in order
format:
    ruff check --fix --select I
    ruff format

# measure beside flyte-sdk's own host and other peers, in one run; --help tells what
bench *arguments:
    {{python}} tests/bench/run.py "$@"

# what is to be reached beside what was, from a run's JSON
targets figures:
    {{python}} tests/bench/targets.py "$@"

# where the time of a call goes, layer by layer; --help tells more
layers *arguments:
    {{python}} tests/bench/layers.py "$@"

# the outside judges: h2spec, grpc-go's interoperability client, grpcurl; arguments go to pytest
interop *arguments:
    {{python}} -m pytest tests/interop tests/rpc/reflection tests/rpc/tls tests/rpc/client "$@"

# attack a host, restart it under load, kill its clients, and see how a good client fares; see docs/drills.md
drills *arguments:
    PYTHONPATH=tests {{python}} -m drills "$@"

# install the outside judges that are Go programs, with the ordinary `go install`
interop-tools:
    go install github.com/summerwind/h2spec/cmd/h2spec@latest
    go install google.golang.org/grpc/interop/client@latest
    go install google.golang.org/grpc/interop/server@latest
    go install google.golang.org/grpc/interop/http2@latest
    go install github.com/fullstorydev/grpcurl/cmd/grpcurl@latest
    go install github.com/grpc-ecosystem/grpc-health-probe@latest

# everything that must never break
ci:
    .ci/run
