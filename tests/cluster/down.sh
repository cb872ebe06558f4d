#!/bin/bash
# tests/cluster/down.sh: ends exactly the processes up.sh (and kserve-up.sh, trainer-up.sh) started, by pid and at once, since a
# polite end takes a quarter of a minute; with -w removes the state
ROOT=${RAMPART_CLUSTER:-$HOME/.cache/rampart-cluster}; RUN=${RUN:-$ROOT/run}
for n in kserve-manager trainer-manager jobset-manager kwok kube-scheduler kube-controller-manager kube-apiserver etcd; do
  p=$(cat $RUN/pid/$n 2>/dev/null) || continue
  e=$(readlink /proc/$p/exe 2>/dev/null); case "$e" in $ROOT/bin/*) kill -KILL $p;; esac
  rm -f $RUN/pid/$n
done
[ "${1:-}" = -w ] && rm -rf "$RUN"; exit 0
