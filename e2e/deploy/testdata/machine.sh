#!/bin/sh
# Boots systemd as on a machine of its own, in namespaces: machine.sh <directory>.
# The machine sees the programs of this one, and the directory as /mnt. What it writes elsewhere is in
# memory, and is gone at the end. Its network is a loopback interface. It runs until the standard input
# ends. The first line of the output is the process id of its systemd.
set -eu

inside() {
	# After a pid namespace /proc must be new, and /sys after a network namespace.
	mount -t proc proc "$root/proc"
	mount -t sysfs -o ro sys "$root/sys"
	# Settings of the kernel are not the machine's own.
	mount --bind "$root/proc/sys" "$root/proc/sys"
	mount -o remount,bind,ro "$root/proc/sys"
	mount -t cgroup2 cgroup "$root/sys/fs/cgroup"
	ip link set lo up
	hostname machine
	cd "$root"
	pivot_root . .
	umount -l .
	exec env -i container=tcplock PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		setpriv --bounding-set=-sys_module,-sys_time,-sys_boot,-sys_rawio,-mknod \
		chroot . /lib/systemd/systemd --unit=machine.target
}

outside() {
	mount --make-rprivate /
	mount -t tmpfs -o size=1g,mode=755 machine /mnt
	cp -a "$1" /mnt/shared
	mkdir /mnt/upper /mnt/work /mnt/root
	root=/mnt/root
	export root
	mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work machine $root
	mount --bind /mnt/shared $root/mnt
	for dir in run tmp dev; do mount -t tmpfs -o mode=755 $dir $root/$dir; done
	chmod 1777 $root/tmp
	for device in null zero full random urandom tty; do cp -a /dev/$device $root/dev/; done
	mkdir $root/dev/pts $root/dev/shm
	mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts $root/dev/pts
	mount -t tmpfs shm $root/dev/shm
	ln -s pts/ptmx $root/dev/ptmx
	ln -s /proc/self/fd $root/dev/fd

	# Only what the tests need. The rest would set up hardware, or wait for it.
	units=$root/etc/systemd/system
	: >$root/etc/fstab
	printf '[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n' >$units/machine.target
	for unit in systemd-udevd.service systemd-udev-trigger.service systemd-udevd-control.socket systemd-udevd-kernel.socket \
		systemd-sysctl.service systemd-modules-load.service systemd-random-seed.service systemd-update-utmp.service \
		systemd-remount-fs.service systemd-journal-flush.service systemd-binfmt.service systemd-firstboot.service \
		systemd-pstore.service sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
		sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount dev-hugepages.mount dev-mqueue.mount timers.target; do
		ln -sfn /dev/null $units/$unit
	done

	# A cgroup of its own: systemd takes all that it sees.
	mkdir /mnt/cgroup
	mount -t cgroup2 cgroup /mnt/cgroup
	group=/mnt/cgroup/tcplock-machine-$$
	mkdir $group
	sh -c 'echo $$ >"$1"/cgroup.procs && shift && exec "$@"' sh $group \
		unshare --mount --pid --fork --kill-child --uts --ipc --net --cgroup sh "$0" inside </dev/null >&2 &
	unshare=$!
	trap 'kill -9 $unshare; wait $unshare || true; remove $group' EXIT
	trap 'exit 1' INT TERM HUP
	while ! systemd=$(pgrep -P $unshare); do sleep 0.05; done
	echo "$systemd"
	cat >/dev/null # until the standard input ends
}

# remove removes a cgroup and those in it, as soon as the last process in them has ended.
remove() {
	for try in 1 2 3 4 5 6 7 8 9 10; do
		! find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || return 0
		sleep 0.2
	done
}

case ${1-} in
inside) inside ;;
*) outside "$@" ;;
esac
