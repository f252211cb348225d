#!/bin/sh
# Installs those of the named tools that this machine lacks: tests/tools.sh TOOL... (beanstalkd go javac jq mvn nc node
# npm strace systemd-analyze venv).
# Only root on a Debian can be helped; anybody else is told what is missing, and the tests that need it are skipped.
set -eu

has() {
    case "$1" in
        venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

package() {
    case "$1" in
        go) echo golang-go ;;
        javac) echo default-jdk-headless ;;
        mvn) echo maven ;;
        nc) echo netcat-openbsd ;;
        node) echo nodejs ;;
        systemd-analyze) echo systemd ;;
        venv) echo python3-venv ;;
        *) echo "$1" ;;
    esac
}

packages=
for tool in "$@"; do
    has "$tool" || packages="$packages $(package "$tool")"
done
[ -n "$packages" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086  # one word a package
    apt-get install -y -qq --no-install-recommends $packages >/dev/null
else
    echo "not installed here:$packages" >&2
fi
