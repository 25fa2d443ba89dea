#!/bin/sh
# Drives the admin API of a running service along its own description: no server error, every answer as described.
# usage: schemathesis.sh URL [EXAMPLES]
set -eu
cd "$(dirname "$0")/../.."
tester=$PWD/.cache/venv/bin/schemathesis
# It leaves its notes where it stands.
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
"$tester" run "$1/api/v1/openapi.json" \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
    --max-examples "${2:-10}" --phases examples,coverage,fuzzing --seed 7 --max-time 60 --workers 1 --no-color \
    --generation-database none --request-timeout 30
