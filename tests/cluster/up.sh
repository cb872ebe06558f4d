#!/bin/bash
# tests/cluster/up.sh: a Kubernetes control plane on loopback (etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kwok with
# NODES fake nodes). State, logs and pids in $RUN; admin kubeconfig in $RUN/admin.kubeconfig. Stop with down.sh. The programs are
# built by install.sh k8s kwok; ports are given by the environment.
set -euo pipefail
ROOT=${RAMPART_CLUSTER:-$HOME/.cache/rampart-cluster}; BIN=${BIN:-$ROOT/bin}; RUN=${RUN:-$ROOT/run}; NODES=${NODES:-2}; GPUS=${GPUS:-8}
APIPORT=${APIPORT:-16443}; ETCDPORT=${ETCDPORT:-12379}; PEERPORT=${PEERPORT:-12380}; KCMPORT=${KCMPORT:-20257}; KSPORT=${KSPORT:-20259}; KWOKPORT=${KWOKPORT:-20247}
mkdir -p $RUN/pki $RUN/log $RUN/pid; cd $RUN
started=$(date +%s%N)
# --- pki: one CA, one serving certificate, one service account key, static tokens
if [ ! -f pki/ca.crt ]; then
  # the CA's key is RSA in PKCS#1 form and its certificate names kubeflow-trainer-ca: Trainer's certificate rotator replaces any other CA by its own
  openssl genrsa -traditional -out pki/ca.key 2048 2>/dev/null
  openssl req -x509 -new -key pki/ca.key -days 3650 -subj /CN=test-ca -addext subjectAltName=DNS:kubeflow-trainer-ca -addext keyUsage=digitalSignature,keyEncipherment,keyCertSign -out pki/ca.crt 2>/dev/null
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=kube-apiserver -keyout pki/api.key -out pki/api.csr 2>/dev/null
  openssl x509 -req -in pki/api.csr -CA pki/ca.crt -CAkey pki/ca.key -CAcreateserial -days 3650 -out pki/api.crt -extfile <(echo "subjectAltName=IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc
extendedKeyUsage=serverAuth") 2>/dev/null
  openssl genrsa -out pki/sa.key 2048 2>/dev/null; openssl rsa -in pki/sa.key -pubout -out pki/sa.pub 2>/dev/null
  t() { openssl rand -hex 16; }
  A=$(t) C=$(t) S=$(t)
  cat > pki/tokens.csv <<T
$A,admin,admin,"system:masters"
$C,system:kube-controller-manager,system:kube-controller-manager
$S,system:kube-scheduler,system:kube-scheduler
T
  chmod 600 pki/*
  kc() { cat > $RUN/$1.kubeconfig <<K
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://127.0.0.1:$APIPORT", certificate-authority: $RUN/pki/ca.crt}}]
users: [{name: $1, user: {token: "$2"}}]
contexts: [{name: test, context: {cluster: test, user: $1}}]
current-context: test
K
  chmod 600 $RUN/$1.kubeconfig; }
  kc admin $A; kc kcm $C; kc scheduler $S
fi
go_() { local n=$1; shift; setsid nohup "$@" >log/$n.log 2>&1 </dev/null & echo $! > pid/$n; }
wait_() { for i in $(seq 1 240); do "$@" >/dev/null 2>&1 && return 0; sleep 0.25; done; echo "timeout: $*" >&2; return 1; }
go_ etcd $BIN/etcd --name test --data-dir $RUN/etcd --listen-client-urls http://127.0.0.1:$ETCDPORT --advertise-client-urls http://127.0.0.1:$ETCDPORT \
  --listen-peer-urls http://127.0.0.1:$PEERPORT --initial-advertise-peer-urls http://127.0.0.1:$PEERPORT --initial-cluster test=http://127.0.0.1:$PEERPORT --unsafe-no-fsync --log-level warn
wait_ curl -fsS http://127.0.0.1:$ETCDPORT/health
go_ kube-apiserver $BIN/kube-apiserver --etcd-servers http://127.0.0.1:$ETCDPORT --bind-address 127.0.0.1 --advertise-address 127.0.0.1 --secure-port $APIPORT \
  --endpoint-reconciler-type none --tls-cert-file pki/api.crt --tls-private-key-file pki/api.key --client-ca-file pki/ca.crt --token-auth-file pki/tokens.csv \
  --service-account-issuer https://kubernetes.default.svc --service-account-key-file pki/sa.pub --service-account-signing-key-file pki/sa.key \
  --service-cluster-ip-range 10.96.0.0/16 --authorization-mode Node,RBAC --allow-privileged=true --anonymous-auth=false --profiling=false ${APISERVER_EXTRA:-}
export KUBECONFIG=$RUN/admin.kubeconfig
wait_ $BIN/kubectl get --raw /readyz
go_ kube-controller-manager $BIN/kube-controller-manager --kubeconfig kcm.kubeconfig --authentication-kubeconfig kcm.kubeconfig --authorization-kubeconfig kcm.kubeconfig \
  --horizontal-pod-autoscaler-sync-period=2s --leader-elect=false --bind-address 127.0.0.1 --secure-port $KCMPORT --service-account-private-key-file pki/sa.key --root-ca-file pki/ca.crt --cert-dir $RUN/pki/kcm \
  --use-service-account-credentials=true --service-cluster-ip-range 10.96.0.0/16 --cluster-signing-cert-file pki/ca.crt --cluster-signing-key-file pki/ca.key
go_ kube-scheduler $BIN/kube-scheduler --kubeconfig scheduler.kubeconfig --authentication-kubeconfig scheduler.kubeconfig --authorization-kubeconfig scheduler.kubeconfig \
  --leader-elect=false --bind-address 127.0.0.1 --secure-port $KSPORT --cert-dir $RUN/pki/ks
if [ "$NODES" -gt 0 ]; then
  for f in node/fast/node-initialize node/heartbeat-with-lease/node-heartbeat-with-lease pod/fast/pod-complete pod/fast/pod-delete pod/fast/pod-ready; do
    echo ---; cat $ROOT/share/kwok-stages/$f.yaml; echo; done > kwok-stages.yaml
  # kwok manages only nodes that carry the annotation, so that a real kubelet can join the same cluster
  go_ kwok $BIN/kwok --kubeconfig $RUN/admin.kubeconfig --manage-all-nodes=false --manage-nodes-with-annotation-selector kwok.x-k8s.io/node=fake \
    --config kwok-stages.yaml --node-ip 127.0.0.1 --server-address 127.0.0.1:$KWOKPORT --cidr 10.200.0.0/16 --node-lease-duration-seconds 40
  for i in $(seq 0 $((NODES-1))); do
    # the last node is the GPU pool, as docs/install.md sets one up
    pool='pool: cpu' taints='[]'
    [ "$NODES" -gt 1 ] && [ "$i" -eq $((NODES-1)) ] && pool='pool: gpu, nvidia.com/gpu.present: "true"' taints='[{key: nvidia.com/gpu, value: present, effect: NoSchedule}]'
    cat <<N
---
apiVersion: v1
kind: Node
metadata:
  name: kwok-$i
  annotations: {node.alpha.kubernetes.io/ttl: "0", kwok.x-k8s.io/node: fake}
  labels: {kubernetes.io/arch: amd64, kubernetes.io/os: linux, kubernetes.io/hostname: kwok-$i, type: kwok, nvidia.com/gpu.product: fake, $pool}
spec: {taints: $taints}
status:
  allocatable: {cpu: "64", memory: 512Gi, pods: "110", nvidia.com/gpu: "$GPUS"}
  capacity: {cpu: "64", memory: 512Gi, pods: "110", nvidia.com/gpu: "$GPUS"}
  nodeInfo: {architecture: amd64, operatingSystem: linux, kubeletVersion: fake}
N
  done | $BIN/kubectl apply -f - >/dev/null
fi
wait_ $BIN/kubectl -n default get serviceaccount default
[ "$NODES" -gt 0 ] && $BIN/kubectl wait --for=condition=Ready nodes -l type=kwok --timeout=60s >/dev/null
echo "control plane up in $(( ($(date +%s%N)-started)/1000000 )) ms: export KUBECONFIG=$RUN/admin.kubeconfig"
