#!/bin/bash
# tests/cluster/minio.sh: builds the last source release of MinIO with Go >= 1.26 (about 3 minutes, 130 MB) for the
# tests that need a real one. RAMPART_CLUSTER: where it goes (default ~/.cache/rampart-cluster).
set -euo pipefail
version=v0.0.0-20260212201848-7aac2a2c5b7c
root=${RAMPART_CLUSTER:-$HOME/.cache/rampart-cluster}
mkdir -p "$root/bin"
[ -x "$root/bin/minio" ] && { echo "$root/bin/minio"; exit 0; }
command -v go > /dev/null || { echo "expected Go >= 1.26 on PATH, found none: install golang" >&2; exit 2; }
export CGO_ENABLED=0 GOWORK=off GOTOOLCHAIN=local GOFLAGS="-p=${P:-2} -buildvcs=false -trimpath"
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
# built in a copy of the module's own tree: `go install pkg@version` refuses its replace directives
source=$(cd "$work" && go mod download -json "github.com/minio/minio@$version" |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["Dir"])')
cp -r "$source" "$work/minio"
chmod -R u+w "$work/minio"
(cd "$work/minio" && go build -ldflags "-s -w" -o "$root/bin/minio.part" .)
mv "$root/bin/minio.part" "$root/bin/minio"
echo "$root/bin/minio"
