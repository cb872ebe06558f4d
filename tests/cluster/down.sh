#!/bin/bash
# tests/cluster/down.sh: stops exactly the processes up.sh (and kserve-up.sh) started, by pid, and with -w removes the state
ROOT=${RAMPART_CLUSTER:-$HOME/.cache/rampart-cluster}; RUN=${RUN:-$ROOT/run}
for n in kserve-manager trainer-manager jobset-manager kwok kube-scheduler kube-controller-manager kube-apiserver etcd; do
  p=$(cat $RUN/pid/$n 2>/dev/null) || continue
  e=$(readlink /proc/$p/exe 2>/dev/null); case "$e" in $ROOT/bin/*) kill $p; for i in $(seq 1 40); do [ -d /proc/$p ] || break; sleep 0.25; done;; esac
  rm -f $RUN/pid/$n
done
[ "${1:-}" = -w ] && rm -rf "$RUN"; exit 0
