#!/bin/bash
# tests/node/init.sh HOME NAME ADDRESS: process 1 of the node that node.sh makes, in namespaces that are new and its own.
set -euo pipefail
home=$1 name=$2 address=$3
hostname "$name"
mount --make-rprivate /
mount -t proc proc /proc
# a /sys of this network namespace, with the machine's cgroups bound into it
mkdir -p "$home/cgroups" "$home"/{var,etc}/{upper,work}
mount --rbind /sys/fs/cgroup "$home/cgroups"
umount -l /sys
mount -t sysfs sysfs /sys
mount --rbind "$home/cgroups" /sys/fs/cgroup
umount -l "$home/cgroups"
mount -t overlay overlay -o "lowerdir=/var,upperdir=$home/var/upper,workdir=$home/var/work" /var
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$home/etc/upper,workdir=$home/etc/work" /etc
mount -t tmpfs -o mode=755 tmpfs /run
printf '127.0.0.1 localhost\n%s %s\n' "$address" "$name" > /etc/hosts
echo "nameserver $address" > /etc/resolv.conf
mkdir -p /var/lib/kubelet /var/log/pods /var/log/containers /run/sysctl
# The kubelet insists on these values of the whole machine: it is shown files that hold them already.
while read -r key value; do
  echo "$value" > "/run/sysctl/${key//\//.}"
  mount --bind "/run/sysctl/${key//\//.}" "/proc/sys/$key"
done << 'VALUES'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
VALUES
mount --make-rshared /
for controller in cpu cpuacct cpuset memory devices freezer blkio pids systemd; do
  echo $$ > "/sys/fs/cgroup/$controller/$name/system/cgroup.procs"
done
touch "$home/ready"
while :; do
  sleep 3600 &
  wait $!
done
