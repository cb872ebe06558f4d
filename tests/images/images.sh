#!/bin/bash
# tests/images/images.sh: container images by buildah, without a registry and without a Docker engine (Debian 12, root).
#
#   deps               apt packages: buildah, podman, runc, debootstrap
#   base               the base image by debootstrap: Debian 12 with its Python 3.11
#   build TARGET TAG   the stage TARGET of Dockerfile.gpu as localhost/TAG
#   export TAG FILE    localhost/TAG as an archive that `ctr images import` reads
#   podman ARGS...     podman on these images, with runc
#
# RAMPART_CLUSTER: they lie in its folder images (~/.cache/rampart-cluster). TORCH_BACKEND: as Dockerfile.gpu says; any
# but the default needs PyTorch's own index.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
home=${RAMPART_CLUSTER:-$HOME/.cache/rampart-cluster}/images
mkdir -p "$home/run" "$home/tmp"
export TMPDIR=$home/tmp
store=(--root "$home/store" --runroot "$home/run" --storage-driver overlay)
base=localhost/rampart-base:12
authorities=/etc/ssl/certs/ca-certificates.crt

do_deps() {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends buildah podman runc debootstrap >&2
}
do_base() {
  buildah "${store[@]}" inspect --type image $base > /dev/null 2>&1 && return
  local tree=$home/tree mirror container
  mirror=$(sed -nE 's/^URIs: *(\S+).*/\1/p; s/^deb (\[[^]]*\] )?(\S+) .*/\2/p' \
    /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2> /dev/null | head -1) || true
  rm -rf "$tree"
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$tree" "$mirror" \
    > "$home/debootstrap.log" 2>&1
  rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/cache/apt/*.bin "$tree"/var/lib/apt/lists/* "$tree"/var/log/*.log \
    "$tree/etc/resolv.conf" "$tree/etc/hostname"
  mkdir -p "$tree/etc/uv"
  touch "$tree/etc/pip.conf" "$tree/etc/uv/uv.toml" # where a build sees this machine's settings
  # an archive, because `buildah add` gives every file of a folder to root
  tar -C "$tree" --numeric-owner --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' -cf "$home/base.tar" .
  rm -rf "$tree"
  container=$(buildah "${store[@]}" from scratch)
  buildah "${store[@]}" add -q "$container" "$home/base.tar" / > /dev/null
  buildah "${store[@]}" config --cmd /bin/bash \
    --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
  buildah "${store[@]}" commit -q --rm "$container" $base > /dev/null
  rm "$home/base.tar"
}
do_build() {
  # Chroot isolation uses the machine's network as it is; every other would add bridges and firewall rules to it. The
  # machine's authorities and pip's settings are mounted, so that no image holds them.
  local options=(--isolation chroot --layers --build-arg "BASE=$base" --build-arg REVISION=test)
  options+=(--format docker) # OCI's own format has no HEALTHCHECK
  [ -n "${TORCH_BACKEND:-}" ] && options+=(--build-arg "TORCH_BACKEND=$TORCH_BACKEND")
  [ -f $authorities ] && options+=(--volume "$authorities:$authorities:ro")
  [ -f /etc/pip.conf ] && options+=(--volume /etc/pip.conf:/etc/pip.conf:ro)
  echo 'system-certs = true' > "$home/uv.toml"
  options+=(--volume "$home/uv.toml:/etc/uv/uv.toml:ro")
  buildah "${store[@]}" build "${options[@]}" --target "$1" -t "localhost/$2" -f "$repository/Dockerfile.gpu" \
    --ignorefile "$repository/.dockerignore" "$repository" > "$home/build-$1.log" 2>&1 ||
    { tail -20 "$home/build-$1.log" >&2; return 1; }
}
do_export() {
  rm -f "$2"
  buildah "${store[@]}" push -q "localhost/$1" "docker-archive:$2:localhost/$1" >&2
}
do_podman() {
  # Limits on files and processes as they are: raising them needs a right that a machine may lack. runc, because crun
  # refuses machines with both versions of cgroups.
  printf '%s\n' '[containers]' 'default_ulimits = ["nofile=16384:16384", "nproc=16384:16384"]' 'netns = "none"' \
    '[engine]' 'cgroup_manager = "cgroupfs"' 'runtime = "runc"' 'events_logger = "file"' > "$home/containers.conf"
  CONTAINERS_CONF=$home/containers.conf exec podman "${store[@]}" --tmpdir "$home/run/podman" "$@"
}
case ${1:-} in
  deps | base | build | export | podman) "do_$1" "${@:2}" ;;
  *) sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p}' "$0" >&2; exit 2 ;;
esac
