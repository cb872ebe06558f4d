#!/bin/bash
# tests/cluster/kserve-up.sh: KServe's CRDs, config, RBAC and webhooks (from the chart inside the Go module), then its manager as a local
# process, Standard (RawDeployment) mode; webhooks are served on 127.0.0.1 with the control plane's own CA (no cert-manager).
set -euo pipefail
ROOT=${RAMPART_CLUSTER:-$HOME/.cache/rampart-cluster}; BIN=${BIN:-$ROOT/bin}; RUN=${RUN:-$ROOT/run}; SHARE=${SHARE:-$ROOT/share}
PY=${PY:-python3}  # with PyYAML
HERE=$(cd "$(dirname "$0")" && pwd)
WHPORT=${WHPORT:-19443}; METPORT=${METPORT:-19080}; HPORT=${HPORT:-19081}
export KUBECONFIG=$RUN/admin.kubeconfig
# kubectl wait fails at once on a CRD that has no status yet
established() { for i in $(seq 1 60); do $BIN/kubectl wait --for=condition=Established "$@" --timeout=60s >/dev/null 2>&1 && return; sleep 0.5; done; return 1; }
cd $RUN; started=$(date +%s%N)
D=$RUN/kserve-tmp/k8s-webhook-server/serving-certs; mkdir -p $D
if [ ! -f $D/tls.crt ]; then
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=kserve-webhook -keyout $D/tls.key -out $D/tls.csr 2>/dev/null
  openssl x509 -req -in $D/tls.csr -CA pki/ca.crt -CAkey pki/ca.key -CAcreateserial -days 3650 -out $D/tls.crt -extfile <(printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n') 2>/dev/null
fi
$BIN/helm template kserve-crd $SHARE/kserve/kserve-crd | $BIN/kubectl apply --server-side -f - >/dev/null
established crd/inferenceservices.serving.kserve.io crd/clusterstoragecontainers.serving.kserve.io crd/clusterservingruntimes.serving.kserve.io
$BIN/kubectl create namespace kserve --dry-run=client -o yaml | $BIN/kubectl apply -f - >/dev/null
# the chart, less what needs cert-manager and less the manager's own Deployment; webhooks are held back until the manager is ready
$BIN/helm template kserve $SHARE/kserve/kserve-resources -n kserve --set kserve.controller.deploymentMode=Standard \
  --set kserve.controller.gateway.disableIstioVirtualHost=true ${KSERVE_SET:-} | $PY $HERE/localwebhooks.py $WHPORT pki/ca.crt kserve-objects.yaml kserve-webhooks.yaml
$BIN/kubectl apply --server-side --force-conflicts -f kserve-objects.yaml >/dev/null
# the manager reads its serving certificate from $TMPDIR/k8s-webhook-server/serving-certs
POD_NAMESPACE=kserve TMPDIR=$RUN/kserve-tmp setsid nohup $BIN/kserve-manager --kubeconfig $RUN/admin.kubeconfig --metrics-addr 127.0.0.1:$METPORT \
  --health-probe-addr 127.0.0.1:$HPORT --webhook-port $WHPORT >log/kserve-manager.log 2>&1 </dev/null & echo $! > pid/kserve-manager
for i in $(seq 1 240); do curl -fsS http://127.0.0.1:$HPORT/readyz >/dev/null 2>&1 && break; sleep 0.25; done
curl -fsS http://127.0.0.1:$HPORT/readyz >/dev/null || { tail -5 log/kserve-manager.log; exit 1; }
$BIN/kubectl apply --server-side --force-conflicts -f kserve-webhooks.yaml >/dev/null
echo "kserve up in $(( ($(date +%s%N)-started)/1000000 )) ms"
