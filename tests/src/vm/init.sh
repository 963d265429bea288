#!/bin/sh
# The guest's first process: makes the machine ready, runs /job, and hands back what came of it.
# Lines on the second serial port tell the host how far it is: see emulator.rs.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/tmp

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mkdir -p /run
mount -t tmpfs -o mode=755 tmpfs /run
for folder in /tmp /out /dev/shm; do mount -t tmpfs -o mode=1777 tmpfs $folder; done

stty -F /dev/ttyS1 raw -echo
exec 3>/dev/ttyS1
tell() { echo "$*" >&3; }

# The host ends the machine; should it not, this does.
end() {
    exec 3>&-                   # the last close of a serial port waits until all is sent
    stty -F /dev/ttyS0 raw      # so does a change of its settings
    printf '\001' | dd of=/dev/port bs=1 seek=$((0x501)) 2>/dev/null
    poweroff -f
}

# What the kernel says from here on is not about its own start.
echo "<5>ringbell: started" >/dev/kmsg
while read -r need path; do
    insmod "$path" || [ "$need" = may ] || { tell failed "insmod $path"; end; }
done </etc/modules

cd /tmp
tell started
sh /job </dev/null 3>&-
tell status $?

# The disk may still be on its way.
for _ in $(seq 100); do [ -b /dev/sda ] && break; sleep 0.1; done
set -o pipefail
cd /out
dmesg -r >.dmesg
# By way of memory: busybox's tee and head, which would save that, take seconds for a few MiB.
mkdir /results
mount -t tmpfs tmpfs /results
all=/results/archive
if find . -type f | cpio -o -H newc 2>/dev/null >$all && sum=$(crc32 <$all) && [ -b /dev/sda ] &&
    dd if=$all of=/dev/sda bs=1M 2>/dev/null; then
    sync
    tell results ${sum%% *} $(stat -c %s $all)
else
    tell failed "writing the results"
fi
end
