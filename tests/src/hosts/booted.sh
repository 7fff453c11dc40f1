# Makes the namespaces that this runs in a machine, and becomes its systemd: files of a prepared root that nothing is
# written to, everything else in memory, and a checkout with what its administrator installs from.
#
#   sh booted.sh ROOT PLACE NAME PACKAGING PROGRAM
set -eu
prepared=$1 place=$2 name=$3 packaging=$4 program=$5

mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$place"
mkdir "$place/written" "$place/work" "$place/root"
mount -t overlay -o "lowerdir=$prepared,upperdir=$place/written,workdir=$place/work" overlay "$place/root"
cd "$place/root"
mkdir -p proc sys dev run tmp checkout/packaging checkout/target/release
mount --bind "$packaging" checkout/packaging
: >checkout/target/release/coracle-node
mount --bind "$program" checkout/target/release/coracle-node

echo "$name" >/proc/sys/kernel/hostname
echo "$name" >etc/hostname
mount -t proc proc proc
# What systemd sets at a start is the real machine's.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    : >dev/$device
    mount --bind /dev/$device dev/$device
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd

printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n' >etc/passwd
printf 'root:x:0:\nnogroup:x:65534:\n' >etc/group
printf 'root:*:::::::\n' >etc/shadow
tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
# Nobody logs in.
for unit in getty.target console-getty.service systemd-logind.service; do
    ln -sf /dev/null "etc/systemd/system/$unit"
done

pivot_root . .
umount -l .
cd /
exec env -i container=coracle PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --log-target=console \
    --unit=multi-user.target
