#!/bin/bash
# tests/node/node.sh: one real Kubernetes node and its control plane (etcd, API server, controllers, scheduler, containerd,
# runc, a bridge as CNI, kubelet, kube-proxy) in network, mount, process and host name namespaces of its own. Nothing of it
# touches this machine's network, /etc, /var, /run or sysctls. Needs root, cgroups of version 1, and what
# tests/cluster/install.sh k8s and tests/node/install.sh have built.
#
#   up               start it; administrator's kubeconfig: $RAMPART_NODE/admin.kubeconfig, good inside its network
#   import FILE...   images, from archives        net CMD...   run a command in its network
#   kill CONTAINER   end a container's first process as the kernel would, by its id
#   down             stop it and remove everything but its logs
#
# RAMPART_CLUSTER: the programs (~/.cache/rampart-cluster). RAMPART_NODE: state and logs ($RAMPART_CLUSTER/node), 16 GB
# with two images and for a while 14 more.
# No registry, no cluster DNS and no way out: images are imported, and pods reach Services by address.
set -euo pipefail
root=${RAMPART_CLUSTER:-$HOME/.cache/rampart-cluster}
home=${RAMPART_NODE:-$root/node}
bin=$root/bin
name=rampart-node
address=192.168.250.1 pods=10.244.0.0/24 services=10.96.0.0/16 api=16443
controllers=(cpu cpuacct cpuset memory devices freezer blkio pids systemd)
mkdir -p "$home/log" "$home/pid"

inside() { # in all its namespaces, with an environment of its own
  nsenter -t "$(cat "$home/init.pid")" -n -m -p -u env -i PATH="$bin:/usr/sbin:/usr/bin:/sbin:/bin" HOME="$home" \
    CONTAINERD_ADDRESS="$home/containerd.sock" CONTAINERD_NAMESPACE=k8s.io KUBECONFIG="$home/admin.kubeconfig" "$@"
}
start() { # NAME CMD...
  inside setsid "${@:2}" > "$home/log/$1.log" 2>&1 < /dev/null &
}
await() { # SECONDS CMD...
  for _ in $(seq $(($1 * 4))); do "${@:2}" > /dev/null 2>&1 && return; sleep 0.25; done
  echo "expected within $1 s: ${*:2}; look into $home/log" >&2
  return 1
}
alive() { # the process of that number is still process 1 of this node
  [ -e "$home/init.pid" ] && [ -e /var/run/netns/$name ] &&
    [ "$(stat -Lc %i "/proc/$(cat "$home/init.pid")/ns/net" 2> /dev/null)" = "$(stat -Lc %i /var/run/netns/$name)" ]
}

make_namespaces() {
  rm -rf "$home"/{ready,var,etc}
  ip netns list | grep -qw $name || ip netns add $name
  ip -n $name link set lo up
  if ! ip -n $name link show node0 > /dev/null 2>&1; then
    ip -n $name link add node0 type bridge
    ip -n $name addr add $address/24 dev node0
    ip -n $name link set node0 up
    ip -n $name route add default dev node0
  fi
  local part file
  for part in "${controllers[@]}"; do mkdir -p "/sys/fs/cgroup/$part/$name/system"; done
  for part in $name $name/system; do
    for file in cpus mems; do
      cat /sys/fs/cgroup/cpuset/cpuset.$file > "/sys/fs/cgroup/cpuset/$part/cpuset.$file"
    done
  done
  setsid nsenter --net=/var/run/netns/$name unshare --mount --uts --pid --fork --kill-child \
    bash "$(dirname "$0")/init.sh" "$home" $name $address > "$home/log/init.log" 2>&1 < /dev/null &
  local outer=$!
  await 20 test -e "$home/ready" || { cat "$home/log/init.log" >&2; exit 1; }
  # of the chain setsid, nsenter, unshare only the last has a child: process 1 of the namespace
  while [ "$(readlink "/proc/$outer/ns/pid")" = "$(readlink /proc/self/ns/pid)" ]; do outer=$(pgrep -P "$outer" | head -1); done
  echo "$outer" > "$home/init.pid"
  [ "$(readlink "/proc/$outer/ns/net")" != "$(readlink /proc/self/ns/net)" ] || { echo "not isolated" >&2; exit 1; }
}
start_containerd() {
  mkdir -p "$home/cni"
  cat > "$home/cni/10-bridge.conflist" << C
{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
 "hairpinMode": true, "ipam": {"type": "host-local", "dataDir": "$home/addresses", "ranges": [[{"subnet": "$pods"}]],
 "routes": [{"dst": "0.0.0.0/0"}]}}]}
C
  cat > "$home/containerd.toml" << C
version = 2
root = "$home/containerd"
state = "$home/containerd-state"
[grpc]
  address = "$home/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true # lowering it needs a right that a machine may lack
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "/usr/sbin/runc"
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$home/cni"
C
  # without a containerd of another version on its PATH, whose shim it would take
  start containerd env PATH=/usr/sbin:/usr/bin:/sbin:/bin /usr/bin/containerd -c "$home/containerd.toml"
  await 30 inside /usr/bin/ctr version
}
make_keys() {
  mkdir -p "$home/pki"
  cd "$home/pki"
  [ -f sa.pub ] && return
  local curve=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes) user
  openssl req -x509 "${curve[@]}" -days 3650 -subj /CN=node-ca -keyout ca.key -out ca.crt 2> /dev/null
  certify() { # NAME SUBJECT EXTENSIONS
    openssl req "${curve[@]}" -subj "$2" -keyout "$1.key" -out "$1.csr" 2> /dev/null
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -out "$1.crt" \
      -extfile <(echo "$3") 2> /dev/null
  }
  certify api /CN=kube-apiserver "subjectAltName=IP:127.0.0.1,IP:$address,IP:10.96.0.1,DNS:kubernetes.default.svc
extendedKeyUsage=serverAuth"
  certify api-to-kubelet /O=system:masters/CN=api-to-kubelet extendedKeyUsage=clientAuth
  certify admin /O=system:masters/CN=admin extendedKeyUsage=clientAuth
  certify kcm /CN=system:kube-controller-manager extendedKeyUsage=clientAuth
  certify scheduler /CN=system:kube-scheduler extendedKeyUsage=clientAuth
  certify proxy /CN=system:kube-proxy extendedKeyUsage=clientAuth
  certify kubelet /O=system:nodes/CN=system:node:$name extendedKeyUsage=clientAuth
  for user in admin kcm scheduler proxy kubelet; do
    cat > "$home/$user.kubeconfig" << C
apiVersion: v1
kind: Config
clusters: [{name: node, cluster: {server: "https://127.0.0.1:$api", certificate-authority: $home/pki/ca.crt}}]
users: [{name: $user, user: {client-certificate: $home/pki/$user.crt, client-key: $home/pki/$user.key}}]
contexts: [{name: node, context: {cluster: node, user: $user}}]
current-context: node
C
  done
  openssl genrsa -out sa.key 2048 2> /dev/null
  chmod 600 ./*.key
  openssl rsa -in sa.key -pubout -out sa.pub 2> /dev/null
}
start_control_plane() {
  make_keys
  local pki=$home/pki
  start etcd "$bin/etcd" --name node --data-dir "$home/etcd" --listen-client-urls http://127.0.0.1:12379 \
    --advertise-client-urls http://127.0.0.1:12379 --listen-peer-urls http://127.0.0.1:12380 \
    --initial-advertise-peer-urls http://127.0.0.1:12380 --initial-cluster node=http://127.0.0.1:12380 \
    --unsafe-no-fsync --log-level warn
  await 60 inside curl -fsS http://127.0.0.1:12379/health
  start kube-apiserver "$bin/kube-apiserver" --etcd-servers http://127.0.0.1:12379 --bind-address 0.0.0.0 \
    --advertise-address $address --secure-port $api --tls-cert-file "$pki/api.crt" --tls-private-key-file "$pki/api.key" \
    --client-ca-file "$pki/ca.crt" --service-account-issuer https://kubernetes.default.svc \
    --service-account-key-file "$pki/sa.pub" --service-account-signing-key-file "$pki/sa.key" \
    --service-cluster-ip-range $services --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
    --anonymous-auth=false --kubelet-client-certificate "$pki/api-to-kubelet.crt" \
    --kubelet-client-key "$pki/api-to-kubelet.key" --kubelet-preferred-address-types InternalIP
  await 120 inside kubectl get --raw /readyz
  start kube-controller-manager "$bin/kube-controller-manager" --kubeconfig "$home/kcm.kubeconfig" --leader-elect=false \
    --bind-address 127.0.0.1 --use-service-account-credentials --service-account-private-key-file "$pki/sa.key" \
    --root-ca-file "$pki/ca.crt" --service-cluster-ip-range $services --cert-dir "$pki/kcm"
  start kube-scheduler "$bin/kube-scheduler" --kubeconfig "$home/scheduler.kubeconfig" --leader-elect=false \
    --bind-address 127.0.0.1 --cert-dir "$pki/scheduler"
}
start_kubelet() {
  cat > "$home/kubelet.yaml" << C
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false # else it ends at once on cgroups of version 1
cgroupDriver: cgroupfs
cgroupRoot: /$name
enforceNodeAllocatable: [pods]
systemReserved: {cpu: 100m, memory: 1Gi}
containerRuntimeEndpoint: unix://$home/containerd.sock
address: $address
healthzBindAddress: 127.0.0.1
makeIPTablesUtilChains: false
protectKernelDefaults: true # look at the sysctls, never write them: see init.sh
failSwapOn: false
resolvConf: ""
maxPods: 50
evictionHard: {memory.available: 200Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $home/pki/ca.crt}}
authorization: {mode: Webhook}
C
  start kubelet "$bin/kubelet" --config "$home/kubelet.yaml" --root-dir "$home/kubelet" --hostname-override $name \
    --node-ip $address --kubeconfig "$home/kubelet.kubeconfig"
  await 60 inside curl -fsS http://127.0.0.1:10248/healthz
  await 120 inside kubectl wait --for=condition=Ready node/$name --timeout=1s
  cat > "$home/proxy.yaml" << C
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clientConnection: {kubeconfig: $home/proxy.kubeconfig}
clusterCIDR: $pods
hostnameOverride: $name
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
C
  start kube-proxy "$bin/kube-proxy" --config "$home/proxy.yaml"
  await 60 inside kubectl -n default get serviceaccount default
}
do_up() {
  alive && { echo "expected no node, one is up; stop it by: $0 down" >&2; exit 2; }
  # half a node is none
  trap 'code=$?; [ $code = 0 ] || do_down; exit $code' EXIT
  make_namespaces
  start_containerd
  do_import "$root/node/pause.tar"
  start_control_plane
  start_kubelet
}
do_import() {
  local file blobs
  for file in "$@"; do inside /usr/bin/ctr images import "$file" > /dev/null; done
  # containers run on the layers as they were unpacked: the large ones need not lie here twice
  blobs=$(inside /usr/bin/ctr content ls | awk '$2 ~ /GB$/ {print $1}')
  if [ -n "$blobs" ]; then inside /usr/bin/ctr content rm $blobs > /dev/null; fi
}
do_kill() { inside /usr/bin/ctr tasks kill --signal SIGKILL "$1"; }
do_net() { exec nsenter --net=/var/run/netns/$name "$@"; }
do_down() {
  # process 1 takes every other process of its namespace with it
  alive && kill -9 "$(cat "$home/init.pid")"
  rm -f "$home/init.pid"
  # what tests/cluster/kserve-up.sh started in the same network, but outside that namespace
  local manager
  manager=$(cat "$home/pid/kserve-manager" 2> /dev/null) &&
    [ "$(readlink "/proc/$manager/exe")" = "$bin/kserve-manager" ] && kill "$manager"
  sleep 2
  ip netns list | grep -qw $name && ip netns del $name
  for _ in 1 2 3; do find /sys/fs/cgroup/*/$name -depth -type d -exec rmdir {} + 2> /dev/null || true; done
  rm -rf "$home"/{containerd,containerd-state,etcd,kubelet,addresses,var,etc,pki,pid,kserve-tmp,cni,helm,ready,image.tar} \
    "$home"/*.{kubeconfig,yaml,toml} "$home"/containerd.sock*
  if [ -d "$home/cgroups" ]; then rmdir "$home/cgroups"; fi
}
case ${1:-} in
  up | import | net | kill | down) "do_$1" "${@:2}" ;;
  *) sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p}' "$0" >&2; exit 2 ;;
esac
