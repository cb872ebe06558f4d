#!/bin/bash
# tests/cluster/install.sh [PART ...]: builds the programs that the chart and cluster tests need, pinned, from the Go
# module proxy (Prometheus: Debian's package, where there is apt-get). Needs Go >= 1.26 and python3. A part that is there
# in its pinned version costs nothing.
#
#   helm   helm, helm-unittest, kubeconform       crds     CRDs of prometheus-operator, Gateway API, KEDA, JobSet, Trainer
#   prom   promtool, prometheus                   schemas  JSON schemas of what the chart makes, for kubeconform
#   minio  minio                                  k8s      kube-apiserver, -controller-manager, -scheduler, kubectl, kubelet, etcd
#   kwok   kwok and its stages                    kserve   KServe's controller;  trainer  JobSet's and Trainer's
#
# Without a part: helm prom minio schemas, what `make test` uses. RAMPART_CLUSTER: where all goes (~/.cache/rampart-cluster).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=${RAMPART_CLUSTER:-$HOME/.cache/rampart-cluster}
helm=v3.22.0 unittest=v1.1.2 kubeconform=v0.8.0 prometheus=v0.315.0
k8s=1.36.3 kwok=v0.8.0 kserve=v0.17.0 operator=v0.85.0 gateway=v1.6.3 trainer=v2.0.0 jobset=v0.8.2 keda=v2.21.0
schemas=(1.34.4 1.35.4 1.36.3) # the Kubernetes versions that manifests are checked against
known=(helm prom minio crds schemas k8s kwok kserve trainer)
parts=("$@")
((${#parts[@]})) || parts=(helm prom minio schemas)
for part in "${parts[@]}"; do
  [[ " ${known[*]} " == *" $part "* ]] || { echo "expected a part of ${known[*]}, got $part" >&2; exit 2; }
done
python=$here/../../.venv/bin/python
[ -x "$python" ] || python=python3 # needs PyYAML
mkdir -p "$root/bin" "$root/share" "$root/done"
export CGO_ENABLED=0 GOWORK=off GOTOOLCHAIN=local GOFLAGS="-p=${P:-2} -buildvcs=false -trimpath"
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT

need_go() { command -v go > /dev/null || { echo "expected Go >= 1.26 on PATH, found none: install golang" >&2; exit 2; }; }
module() { # MODULE@VERSION FIELD: the module's folder (Dir) or go.mod (GoMod)
  need_go
  (cd "$work" && go mod download -json "$1" | python3 -c "import json, sys; print(json.load(sys.stdin)['$2'])")
}
once() { # STAMP COMMAND...: nothing if this version was made before
  local stamp="$root/done/${1//\//_}"
  [ -e "$stamp" ] && return 0
  echo "building $1" >&2
  "${@:2}"
  touch "$stamp"
}
# MODULE VERSION PACKAGE NAME [PATCH]: in a copy of the module's own tree, so with upstream's go.mod, go.sum and replace
# directives, which `go install pkg@version` refuses
build() { once "$4@$2" compile "$@"; }
compile() {
  local source tree="$work/$4"
  source=$(module "$1@$2" Dir)
  cp -r "$source" "$tree"
  chmod -R u+w "$tree"
  (cd "$tree" && eval "${5:-:}" && go build -ldflags "-s -w" -o "$root/bin/$4.part" "$3")
  mv "$root/bin/$4.part" "$root/bin/$4"
  rm -rf "$tree"
}
share() { # MODULE@VERSION FOLDER TARGET: a folder of a module, as it is
  local source
  source=$(module "$1" Dir)/$2
  rm -rf "${root:?}/share/$3"
  mkdir -p "$root/share/$3"
  cp -r "$source/." "$root/share/$3"
  chmod -R u+w "$root/share/$3"
}

part_helm() {
  build helm.sh/helm/v3 $helm ./cmd/helm helm
  build github.com/helm-unittest/helm-unittest $unittest ./cmd/helm-unittest untt
  build github.com/yannh/kubeconform $kubeconform ./cmd/kubeconform kubeconform
}
part_prom() {
  if command -v apt-get > /dev/null && [ "$(dpkg --print-architecture 2> /dev/null)" = amd64 ]; then
    once prometheus@debian unpack_debian # seconds instead of five minutes and 3 GB
    return
  fi
  # the web pages are not in the module: an empty stand-in
  local page='mkdir -p ui/app/dist; echo none > ui/app/dist/index.html'
  build github.com/prometheus/prometheus $prometheus ./cmd/promtool promtool "$page"
  build github.com/prometheus/prometheus $prometheus ./cmd/prometheus prometheus "$page"
}
unpack_debian() { # the programs of Debian's package, without its service
  (cd "$work" && { apt-get download -q prometheus || { apt-get update -q && apt-get download -q prometheus; }; } >&2)
  dpkg -x "$work"/prometheus_*.deb "$work/debian"
  install -m 755 "$work/debian/usr/bin/prometheus" "$work/debian/usr/bin/promtool" "$root/bin/"
}
part_minio() { bash "$here/minio.sh" > /dev/null; }
part_crds() { # what the cluster tests apply
  once crds/gateway-api@$gateway share sigs.k8s.io/gateway-api@$gateway config/crd/standard crds/gateway-api
  once crds/prometheus-operator@$operator share github.com/prometheus-operator/prometheus-operator@$operator \
    example/prometheus-operator-crd crds/prometheus-operator
  once crds/jobset@$jobset share sigs.k8s.io/jobset@$jobset config/components/crd/bases crds/jobset
  once crds/trainer@$trainer share github.com/kubeflow/trainer/v2@$trainer manifests/base/crds crds/trainer
  once chart-crds/keda@$keda share github.com/kedacore/keda/v2@$keda config/crd/bases chart-crds/keda
  find "$root/share/crds" \( -name kustomization.yaml -o -name '*.md' -o -name '*vap_safe*' \) -delete
}
part_schemas() {
  part_crds
  once chart-crds/kserve@$kserve share github.com/kserve/kserve@$kserve config/crd/full chart-crds/kserve
  local version mark
  mark=$(sha256sum < "$here/schemas.py" | head -c 8)
  for version in "${schemas[@]}"; do once "schemas@$version-$mark" write_schemas "$version"; done
}
write_schemas() { # from the API's description in the source, without a cluster
  local source
  source=$(module "k8s.io/kubernetes@v$1" Dir)
  rm -rf "${root:?}/share/schemas/$1"
  "$python" "$here/schemas.py" "$source/api/openapi-spec/swagger.json" "$root/share/schemas/$1" \
    "$root/share/crds" "$root/share/chart-crds" >&2
}
part_k8s() { once kubernetes@$k8s compile_kubernetes; }
compile_kubernetes() { # upstream's whole require list, and for each staging module its published twin v0.N.P
  local twin=v0.${k8s#1.} file flags program
  file=$(module k8s.io/kubernetes@v$k8s GoMod)
  mkdir "$work/k8s"
  python3 "$here/kubernetes_mod.py" "$file" "$k8s" "$twin" > "$work/k8s/go.mod"
  flags="-s -w -X k8s.io/component-base/version.gitVersion=v$k8s"
  flags+=" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$(cut -d. -f2 <<< $k8s)"
  for program in kube-apiserver kube-controller-manager kube-scheduler kubectl kubelet; do
    (cd "$work/k8s" && go build -mod=mod -o "$root/bin/$program" -ldflags "$flags" k8s.io/kubernetes/cmd/$program)
  done
  (cd "$work/k8s" && go build -mod=mod -o "$root/bin/etcd" -ldflags "-s -w" go.etcd.io/etcd/server/v3)
}
part_kwok() {
  build sigs.k8s.io/kwok $kwok ./cmd/kwok kwok
  once kwok-stages@$kwok share sigs.k8s.io/kwok@$kwok kustomize/stage kwok-stages
}
part_kserve() { # its webhooks listen on loopback only: there is no flag for the host
  build github.com/kserve/kserve $kserve ./cmd/manager kserve-manager \
    'sed -i "s#^\t\t\tPort: options.webhookPort,#\t\t\tHost: \"127.0.0.1\", Port: options.webhookPort,#" cmd/manager/main.go
     grep -q 127.0.0.1 cmd/manager/main.go'
  once kserve-charts@$kserve share github.com/kserve/kserve@$kserve charts kserve
}
part_trainer() { # the same, and its certificates below TMPDIR
  build sigs.k8s.io/jobset $jobset . jobset
  build github.com/kubeflow/trainer/v2 $trainer ./cmd/trainer-controller-manager trainer-manager \
    'sed -i "s#^\t\t\tPort:    webhookServerPort,#\t\t\tHost: \"127.0.0.1\", Port: webhookServerPort,#" cmd/trainer-controller-manager/main.go
     sed -i "s#^\t\tCertDir:        certDir,#\t\tCertDir: os.TempDir() + \"/k8s-webhook-server/serving-certs\",#" pkg/util/cert/cert.go
     grep -q 127.0.0.1 cmd/trainer-controller-manager/main.go && grep -q os.TempDir pkg/util/cert/cert.go'
  once jobset-charts@$jobset share sigs.k8s.io/jobset@$jobset charts jobset
  once trainer-manifests@$trainer share github.com/kubeflow/trainer/v2@$trainer manifests trainer
}

for part in "${parts[@]}"; do "part_$part"; done
echo "$root"
