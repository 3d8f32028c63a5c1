#!/bin/sh
# One soffice that listens for UNO clients on 127.0.0.1:<port>.
#
#	soffice.sh run <port>      runs it in the foreground, for systemd
#	soffice.sh restart <port>  ends the old one, and starts a new one in the
#	                           background that comes back when it crashes
#	soffice.sh stop <port>     ends it
#
# Its profile, log and pid file are in $SOFFICE_DIR/<port>, where SOFFICE_DIR is
# ~/.local/state/soffice by default. It needs Linux, with procps and util-linux.
set -eu

fail() {
	echo "soffice.sh: $1" >&2
	exit 2
}

action=${1:-}
port=${2:-}
case $action in
run | restart | stop | supervise) ;;
*) fail "found action \"$action\", expected run, restart or stop" ;;
esac
case $port in
"" | *[!0-9]*) fail "found port \"$port\", expected a number" ;;
esac
dir=${SOFFICE_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/soffice}/$port
case $dir in
*[!A-Za-z0-9/._-]*) fail "found directory $dir, expected only letters, digits and / . _ - in it, as it becomes part of a URL" ;;
/*) ;;
*) fail "found directory $dir, expected an absolute path" ;;
esac
mark=-env:UserInstallation=file://$dir/profile

run() {
	# LibreOffice tests its graphics code, which takes seconds, if another version
	# used the profile last. It stores its version only when it has a screen, so
	# without one it would run the test at every start.
	version=$(soffice "$mark" --version | sed -n 's/^LibreOffice[^ ]* \([0-9]*\.[0-9]*\).*/\1/p')
	settings=$dir/profile/user/registrymodifications.xcu
	if ! grep -qsF "\"ooSetupLastVersion\" oor:op=\"fuse\"><value>$version<" "$settings"; then
		rm -rf "$dir/profile"
		mkdir -p "$dir/profile/user"
		cat >"$settings" <<END
<?xml version="1.0" encoding="UTF-8"?>
<oor:items xmlns:oor="http://openoffice.org/2001/registry" xmlns:xs="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<item oor:path="/org.openoffice.Setup/Product"><prop oor:name="ooSetupLastVersion" oor:op="fuse"><value>$version</value></prop></item>
</oor:items>
END
	fi
	# Each soffice leaves temporary files behind, however it ends.
	rm -rf "$dir/tmp"
	mkdir -p "$dir/tmp"
	TMPDIR=$dir/tmp exec soffice "$mark" --headless --norestore --nologo --nodefault \
		"--accept=socket,host=127.0.0.1,port=$port;urp;"
}

# alive reports whether a process of session $sid is ours: all of ours have the profile
# in their command line. So an old pid file does no harm, even if its number belongs to
# another process by now.
alive() {
	ps -ww -o args= -s "$sid" | grep -qF -e "$mark"
}

# end kills all processes of soffice: a script, a starter and soffice.bin. They have
# nothing to save, and a soffice that hangs would ignore a gentler signal. It returns when
# all are gone, because a new soffice would hand its work to an old one with the same
# profile. A process is gone when it is a zombie: before that it may still listen, even if
# its command line no longer shows.
end() {
	sid=$(cat "$dir/pid" 2>/dev/null) || return 0
	if alive; then
		while ps -o stat= -s "$sid" | grep -q '^[^Z]'; do
			kill -s KILL -- "-$sid" 2>/dev/null || :
			sleep 0.05
		done
	fi
	rm "$dir/pid"
}

# start returns when the pid file and the new session exist.
start() {
	setsid "$0" supervise "$port" "$mark" </dev/null >"$dir/log" 2>&1 9>&- &
	sid=$!
	echo "$sid" >"$dir/pid"
	until alive; do
		kill -0 "$sid"
		sleep 0.05
	done
}

mkdir -p "$dir"
case $action in
run)
	run
	;;
restart | stop)
	exec 9>"$dir/lock" # one at a time
	flock 9
	end
	[ "$action" = stop ] || start
	;;
supervise)
	while :; do
		"$0" run "$port" || echo "soffice ended with status $?, starting it again"
		sleep 1
	done
	;;
esac
