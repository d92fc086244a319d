#!/bin/busybox sh
# PID 1 of the guest: mounts the machine's own file system under a layer in memory, and goes on in it as PID 1. Modules
# that the kernel asks for are looked for where PID 1 has its root.
bb=/bin/busybox
fail() {
    echo "init: $1"
    $bb poweroff -f
}
$bb mkdir -p /proc /sys /dev /lower /upper /new
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs dev /dev
while read -r module; do
    $bb insmod "/modules/$module" || echo "init: $module is not taken"
done </modules/order
plan9=trans=virtio,version=9p2000.L,msize=524288
$bb mount -t 9p -o "ro,cache=loose,$plan9" root /lower || fail "no root"
$bb mount -t tmpfs tmpfs /upper
$bb mkdir /upper/upper /upper/work
$bb mount -t overlay -o lowerdir=/lower,upperdir=/upper/upper,workdir=/upper/work overlay /new || fail "no overlay"
for folder in proc sys dev run tmp; do
    $bb mkdir -p "/new/$folder"
done
$bb mount -t proc proc /new/proc
$bb mount -t sysfs sysfs /new/sys
$bb mount -t devtmpfs dev /new/dev
$bb mount -t tmpfs -o mode=1777 tmpfs /new/tmp
$bb mount -t tmpfs tmpfs /new/run
$bb mkdir -p /new/dev/shm /new/dev/pts /new/run/lock /new/run/wayfork-vm/job
$bb mount -t tmpfs tmpfs /new/dev/shm
$bb mount -t devpts devpts /new/dev/pts
$bb mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
$bb mount -t bpf bpf /new/sys/fs/bpf
# What the job leaves behind is written through: the guest may end at any time.
$bb mount -t 9p -o "rw,cache=none,$plan9" job /new/run/wayfork-vm/job || fail "no folder for the results"
$bb cp /bin/busybox /new/run/wayfork-vm/busybox
$bb ln -s busybox /new/run/wayfork-vm/modprobe
$bb mkdir -p /new/lib/modules
$bb mount --bind "/lower$(cat /modules/home)" /new/lib/modules || fail "no modules"
echo /run/wayfork-vm/modprobe >/proc/sys/kernel/modprobe
# Nobody opens a device file that is not there yet, so nothing would ever ask for this one.
$bb chroot /new /run/wayfork-vm/modprobe tun || echo "init: no tun"
exec $bb chroot /new /run/wayfork-vm/busybox sh /run/wayfork-vm/job/job.sh
