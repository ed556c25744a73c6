#!/usr/bin/env bash
# `docker compose up triton` for real: with a Docker engine of its own, on images made from
# Debian's packages, a slide is diagnosed through the server and through TLS as it is in process.
#
#   docker/try.sh [REPOSITORY SLIDE]       without them, `sagdeploy demo` makes both
#
# Needs Linux, root, apt, dockerd, docker, docker-compose, debootstrap, and sagdeploy on the path.
# NVIDIA's image is not pulled: TRITON_IMAGE names the CPU image. What it starts it also ends.
set -euo pipefail

SUITE=bookworm
PACKAGES=ca-certificates,curl,libpython3.11,python3,python3-venv
HEALTHY_S=120

say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }
quietly() { "$@" >"$work/output" 2>&1 || { tail -n 40 "$work/output" >&2; return 1; }; }
compose() { "${composer[@]}" --profile cpu --profile tls "$@"; }
container() { compose ps -q "$1"; }

finish() {
    status=$?
    trap - EXIT
    [ "$status" = 0 ] || compose logs --tail 40 || true
    quietly compose down --volumes --timeout 20 || true
    say "containers are gone"
    [ -z "${engine:-}" ] || { kill "$engine" && wait "$engine"; } || true
    umount "$work"/exec/netns/* 2>/dev/null || true # dockerd leaves it mounted
    rm -rf --one-file-system "$work"
    say "taken down, exit $status"
    exit "$status"
}

free_port() {
    python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

start_engine() {
    # It leaves the host's firewall and bridges alone; its containers have no way out.
    dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" \
        --host "$DOCKER_HOST" --bridge none --iptables=false --ip-forward=false \
        >"$work/engine" 2>&1 &
    engine=$!
    for _ in $(seq 60); do
        docker info >/dev/null 2>&1 && return
        kill -0 "$engine" 2>/dev/null || break
        sleep 0.5
    done
    tail -n 5 "$work/engine" >&2
    return 1
}

make_base() { # an image of Debian that trusts, and installs from, what this machine does
    local mirror index
    mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' | sed -n "s/^$SUITE //p" | head -n 1)
    quietly debootstrap --variant=minbase --include="$PACKAGES" "$SUITE" "$work/base" "$mirror"
    rm -rf "$work"/base/var/cache/apt/archives/*.deb "$work"/base/var/lib/apt/lists/*
    # As Debian's own images: apt keeps no index of what it could install.
    echo 'Dir::Cache { pkgcache ""; srcpkgcache ""; };' >"$work/base/etc/apt/apt.conf.d/docker-clean"
    find /usr/local/share/ca-certificates -name '*.crt' \
        -exec cp -t "$work/base/usr/local/share/ca-certificates" {} +
    quietly chroot "$work/base" update-ca-certificates
    index=$(python3 -m pip config get global.index-url 2>/dev/null || true)
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n%s\n' \
        "${index:+index-url = $index}" >"$work/base/etc/pip.conf"
    tar --directory "$work/base" --create . | quietly docker import - "$CPU_BASE_IMAGE"
    rm -rf --one-file-system "$work/base"
}

up() { # SERVICE: until its own health check says that it is well
    local since=$SECONDS health=unknown
    quietly compose up --no-build --detach "$1"
    until [ "$health" = healthy ]; do
        [ $((SECONDS - since)) -lt $HEALTHY_S ] || { say "$1 is $health"; return 1; }
        sleep 0.5
        health=$(docker inspect --format '{{.State.Health.Status}}' "$(container "$1")")
    done
    say "$1 is healthy at $(docker port "$(container "$1")")"
}

predict() { # NAME OPTION...: diagnoses the slide into $work/out/NAME
    quietly sagdeploy predict "$slide" --out "$work/out/$1" "${@:2}"
    say "slide diagnosed: $1"
}

is_locked_down() { # SERVICE: not root, models read-only, no capability
    local id
    id=$(container "$1")
    [ "$(docker exec "$id" id -un)" = triton-server ]
    [ "$(docker inspect --format '{{range .Mounts}}{{.RW}}{{end}}' "$id")" = false ]
    docker exec --user root "$id" grep -q '^CapBnd:\s0*$' /proc/self/status
}

is_refused() { # URL OPTION...: what manages the server is nobody's business
    local code
    code=$(curl --silent --output /dev/null --write-out '%{http_code}' "${@:2}" "$1")
    case $code in 403 | 503) ;; *) say "$1 is answered $code"; return 1 ;; esac
}

agree() { # all that is in $work/out says the same of the slide
    python3 - "$work/out" <<'END'
import json, sys
from pathlib import Path

records = {
    path.parts[-3]: json.loads(path.read_text())
    for path in sorted(Path(sys.argv[1]).glob("*/*/prediction.json"))
}
expected = records.pop("in-process")
assert records and expected["engine"].startswith("ONNX Runtime"), expected["engine"]
for name, record in records.items():
    assert record["engine"].startswith("Triton"), record["engine"]
    apart = {
        kind: max(
            abs(value - record["prediction"][kind][label])
            for label, value in expected["prediction"][kind].items()
        )
        for kind in ("probabilities", "logits")
    }
    print(f"        {name}: {record['engine']};", {kind: f"{v:.1e}" for kind, v in apart.items()})
    assert max(apart.values()) < 1e-5, apart
    places = [[t["xy_l0"] for t in r["attention"][0]["top_tiles"]] for r in (expected, record)]
    assert places[0] == places[1], places
END
}

cd "$(dirname "$0")/.."
for needed in apt-get curl debootstrap docker dockerd sagdeploy; do
    command -v "$needed" >/dev/null || { echo "$needed is not installed" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "only root can start a Docker engine" >&2; exit 2; }
composer=(docker-compose)
if docker compose version >/dev/null 2>&1; then composer=(docker compose); fi

work=$(mktemp -d)
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
unset SAGDEPLOY_SERVER SSL_CERT_FILE
export DOCKER_HOST="unix://$work/socket" COMPOSE_PROJECT_NAME="sagdeploy-try-$$"
export COMPOSE_FILE="compose.yaml:$work/build.yaml"
export CPU_BASE_IMAGE=sagdeploy-try-base PROXY_BASE_IMAGE=sagdeploy-try-base
TRITON_PORT=$(free_port) TLS_PORT=$(free_port)
export TRITON_PORT TLS_PORT TLS_ADDRESS=127.0.0.1 TLS_CERTIFICATES="$work/certificates"
mkdir "$TLS_CERTIFICATES"
cat >"$work/build.yaml" <<'END'
services:
  triton-cpu: {build: {network: host}}
  proxy: {build: {network: host}}
END

if [ $# = 2 ]; then
    MODEL_REPOSITORY=$(realpath "$1") slide=$(realpath "$2")
else
    say "sagdeploy demo"
    quietly sagdeploy demo --out "$work/demo"
    MODEL_REPOSITORY=$work/demo/model_repository
    slide=$(find "$work/demo/cohort/slides" -type f | sort | tail -n 1)
fi
export MODEL_REPOSITORY
predict in-process --repository "$MODEL_REPOSITORY"

start_engine
say "a Docker engine runs, $(docker version --format '{{.Server.Version}}')"
make_base
say "base image made"
quietly compose build triton-cpu
say "CPU image built"
quietly compose build proxy
say "proxy image built"
docker image ls --filter dangling=false --format '{{.Repository}} {{.Size}}' | sed 's/^/        /'

TRITON_IMAGE=sagdeploy-triton-cpu up triton
is_locked_down triton
predict http --server "localhost:$TRITON_PORT"
for path in repository/models/sag/load repository/models/sag/unload; do
    is_refused "http://localhost:$TRITON_PORT/v2/$path" --request POST
done
is_refused "http://localhost:$TRITON_PORT/v2/systemsharedmemory/status"

up proxy
export SSL_CERT_FILE="$TLS_CERTIFICATES/tls.crt" # trust the test certificate
predict tls --server "https://localhost:$TLS_PORT"
for path in repository/models/sag/load logging trace/setting systemsharedmemory/status models/stats; do
    is_refused "https://localhost:$TLS_PORT/v2/$path" --cacert "$SSL_CERT_FILE" --request POST
done
quietly compose rm --stop --force triton
say "triton stopped"

up triton-cpu
is_locked_down triton-cpu
predict cpu-http --server "localhost:$TRITON_PORT"
predict cpu-tls --server "https://localhost:$TLS_PORT" # the proxy has found the other server
agree
