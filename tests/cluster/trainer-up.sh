#!/bin/bash
# tests/cluster/trainer-up.sh: JobSet (v0.8.2) and Kubeflow Trainer v2 CRDs, webhooks on loopback, and both managers as local processes
set -euo pipefail
ROOT=${RAMPART_CLUSTER:-$HOME/.cache/rampart-cluster}; BIN=${BIN:-$ROOT/bin}; RUN=${RUN:-$ROOT/run}; SHARE=${SHARE:-$ROOT/share}; PY=${PY:-python3}  # with PyYAML
HERE=$(cd "$(dirname "$0")" && pwd)
JPORT=${JPORT:-19543} JH=${JH:-19181} TPORT=${TPORT:-19643} TH=${TH:-19281}
export KUBECONFIG=$RUN/admin.kubeconfig
# kubectl wait fails at once on a CRD that has no status yet
established() { for i in $(seq 1 60); do $BIN/kubectl wait --for=condition=Established "$@" --timeout=60s >/dev/null 2>&1 && return; sleep 0.5; done; return 1; }
cd $RUN; started=$(date +%s%N); k="$BIN/kubectl"
crt() { local d=$1/k8s-webhook-server/serving-certs; mkdir -p $d; [ -f $d/tls.crt ] && return
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=webhook -keyout $d/tls.key -out $d/tls.csr 2>/dev/null
  openssl x509 -req -in $d/tls.csr -CA pki/ca.crt -CAkey pki/ca.key -CAcreateserial -days 3650 -out $d/tls.crt -extfile <(printf 'subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:%s\nextendedKeyUsage=serverAuth\n' $2) 2>/dev/null
  cp pki/ca.crt $d/ca.crt; cp pki/ca.key $d/ca.key; }
go_() { local n=$1; shift; setsid nohup "$@" >log/$n.log 2>&1 </dev/null & echo $! > pid/$n; }
ready() { for i in $(seq 1 240); do curl -fsS http://127.0.0.1:$1/readyz >/dev/null 2>&1 && return; sleep 0.25; done; tail -5 log/$2.log; exit 1; }
$k apply --server-side -f $SHARE/crds/jobset -f $SHARE/crds/trainer >/dev/null
established crd/jobsets.jobset.x-k8s.io crd/trainjobs.trainer.kubeflow.org crd/clustertrainingruntimes.trainer.kubeflow.org crd/trainingruntimes.trainer.kubeflow.org
for n in jobset-system kubeflow-system; do $k create namespace $n --dry-run=client -o yaml | $k apply -f - >/dev/null; done
# --- JobSet: its own configuration file can turn certificate rotation off and bind the webhook to loopback
crt $RUN/jobset-tmp jobset-webhook-service.jobset-system.svc
cat > jobset-config.yaml <<C
apiVersion: config.jobset.x-k8s.io/v1alpha1
kind: Configuration
internalCertManagement: {enable: false}
leaderElection: {leaderElect: false}
webhook: {host: 127.0.0.1, port: $JPORT, certDir: $RUN/jobset-tmp/k8s-webhook-server/serving-certs}
metrics: {bindAddress: "0"}
health: {healthProbeBindAddress: "127.0.0.1:$JH"}
C
$BIN/helm template jobset $SHARE/jobset/jobset -n jobset-system | $PY $HERE/localwebhooks.py $JPORT pki/ca.crt jobset-objects.yaml jobset-webhooks.yaml
TMPDIR=$RUN/jobset-tmp go_ jobset-manager $BIN/jobset --config jobset-config.yaml
ready $JH jobset-manager; $k apply --server-side --force-conflicts -f jobset-webhooks.yaml >/dev/null
# --- Trainer: its certificate rotator insists on a Secret; one with our CA passes its checks and is left alone
crt $RUN/trainer-tmp kubeflow-trainer-controller-manager.kubeflow-system.svc
D=trainer-tmp/k8s-webhook-server/serving-certs
$k -n kubeflow-system create secret generic kubeflow-trainer-webhook-cert --from-file=$D/ca.crt --from-file=$D/ca.key --from-file=$D/tls.crt --from-file=$D/tls.key --dry-run=client -o yaml | $k apply -f - >/dev/null
$k kustomize $SHARE/trainer/base/webhook | $PY $HERE/localwebhooks.py $TPORT pki/ca.crt trainer-objects.yaml trainer-webhooks.yaml
$k apply --server-side --force-conflicts -f trainer-webhooks.yaml >/dev/null
TMPDIR=$RUN/trainer-tmp go_ trainer-manager $BIN/trainer-manager --health-probe-bind-address 127.0.0.1:$TH --webhook-server-port $TPORT
ready $TH trainer-manager
$k kustomize $SHARE/trainer/base/runtimes | $k apply --server-side -f - >/dev/null
echo "trainer up in $(( ($(date +%s%N)-started)/1000000 )) ms"
