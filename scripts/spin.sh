#!/bin/sh
# Sees to it that the model checker Spin and a C compiler are there, which tests/lab/spin runs. Installs them where it
# may: as root on Debian and Ubuntu.
set -eu
missing=""
command -v spin >/dev/null 2>&1 || missing="spin"
command -v cc >/dev/null 2>&1 || missing="$missing gcc libc6-dev"
if [ -z "$missing" ]; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # shellcheck disable=SC2086  # several words
  apt-get install -y -qq --no-install-recommends $missing >/dev/null
  exit 0
fi
echo "the models need Spin and a C compiler; missing: $missing. On Debian and Ubuntu: apt-get install spin gcc libc6-dev;" \
  "on macOS: brew install spin; else see https://spinroot.com" >&2
exit 3
