#!/bin/sh
# Writes requirements/{run,test,dev,data,peers*}.txt: exact versions with hashes for every platform, and no address;
# and the lock files of tools/*.
# Needs .venv as `make setup` leaves it. Without a working uv, one is put into a throw-away environment.
set -eu
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if uv --version >/dev/null 2>&1; then
  uv=uv
else
  .venv/bin/python -m venv "$scratch/uv" || { echo "pin: run 'make setup' first, or install uv" >&2; exit 3; }
  "$scratch/uv/bin/python" -m pip install --quiet uv
  uv=$scratch/uv/bin/uv
fi

compile() { # compile NAME GROUP... : one requirements file
  name=$1; shift
  groups=""
  for group in "$@"; do groups="$groups --group $group"; done
  # shellcheck disable=SC2086  # the groups are words
  "$uv" pip compile $of $groups --quiet --universal --python-version 3.13 --upgrade --generate-hashes \
    --no-emit-index-url --no-emit-find-links --custom-compile-command "make pin" \
    $constraint --output-file "$scratch/$name.txt"
  # Whatever a local set-up may add: no index, link, host or path belongs into a pin.
  sed -E '/^(--|-[fi] )/d; /:\/\//d' "$scratch/$name.txt" > "requirements/$name.txt"
}
of=pyproject.toml constraint=""
compile dev dev
constraint="--constraint requirements/dev.txt"
compile test build test
compile run build
of=--no-deps constraint="" # only what the group names
compile data examples-data
of=pyproject.toml
for name in peers peers-arq peers-taskiq; do compile "$name" "$name"; done
if grep -nE '://|^-|file:|@ |(^|[ "])/' requirements/*.txt; then
  echo "pin: the lines above name a place; requirements must not" >&2
  exit 1
fi

# The same for the npm tools: no download addresses and no links in their lock files.
for tool in openspec docs; do
  sh scripts/npm.sh "$tool" --lock
  .venv/bin/python - "tools/$tool/package-lock.json" <<'PY'
import json, pathlib, sys

path = pathlib.Path(sys.argv[1])
lock = json.loads(path.read_text())
for package in lock["packages"].values():
    package.pop("resolved", None)
    package.pop("funding", None)
text = json.dumps(lock, indent=2) + "\n"
if "://" in text:
    sys.exit(f"pin: {path} names an address")
path.write_text(text)
PY
done
