#!/bin/bash
# tests/node/install.sh: what a real node needs beside tests/cluster/install.sh and tests/images/images.sh (Debian 12, root):
# containerd, runc, the CNI plugins and iptables as Debian's packages, kube-proxy from the Go module proxy, a pause image.
# RAMPART_CLUSTER: where all goes (~/.cache/rampart-cluster).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=${RAMPART_CLUSTER:-$HOME/.cache/rampart-cluster}
k8s=1.36.3 # as in tests/cluster/install.sh
mkdir -p "$root/bin" "$root/node"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

packages=(containerd runc containernetworking-plugins iptables conntrack iproute2 socat openssl curl gcc libc6-dev)
if ! dpkg -s "${packages[@]}" > /dev/null 2>&1; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2
fi

if [ ! -x "$root/bin/kube-proxy" ]; then
  command -v go > /dev/null || { echo "expected Go >= 1.26 on PATH, found none: install golang" >&2; exit 2; }
  export CGO_ENABLED=0 GOWORK=off GOTOOLCHAIN=local GOFLAGS="-p=${P:-2} -buildvcs=false -trimpath"
  file=$(cd "$work" && go mod download -json k8s.io/kubernetes@v$k8s |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["GoMod"])')
  python3 "$here/../cluster/kubernetes_mod.py" "$file" $k8s v0.${k8s#1.} > "$work/go.mod"
  (cd "$work" && go build -mod=mod -o "$root/bin/kube-proxy.part" \
    -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=v$k8s" k8s.io/kubernetes/cmd/kube-proxy)
  mv "$root/bin/kube-proxy.part" "$root/bin/kube-proxy"
fi

# The process that keeps a pod's namespaces, as an archive of one layer; it needs no registry and no libc.
if [ ! -f "$root/node/pause.tar" ]; then
  gcc -Os -static -s -o "$work/pause" "$here/pause.c"
  python3 "$here/scratch_image.py" localhost/pause:1 "$root/node/pause.tar" /pause="$work/pause" --entrypoint /pause
fi
echo "$root"
