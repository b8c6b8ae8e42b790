#!/bin/sh
# Makes .venv-peers, .venv-peers-arq and .venv-peers-taskiq with exactly the packages of requirements/peers*.txt, for
# `make bench-peers`. Does nothing for one that has the current pins. What cannot be installed is said, and is no error:
# the benchmark goes on without it and says so too. Needs .venv.
set -eu
cd "$(dirname "$0")/.."
if uv --version >/dev/null 2>&1; then uv=yes; else uv=no; fi
for name in peers peers-arq peers-taskiq; do
  pins=requirements/$name.txt folder=.venv-$name
  key=$(cksum < "$pins")
  if [ -f "$folder/.ready" ] && [ "$(cat "$folder/.ready")" = "$key $PWD" ]; then continue; fi
  echo "setting up $folder" >&2
  .venv/bin/python -m venv --clear "$folder"
  if { [ "$uv" = yes ] && VIRTUAL_ENV=$PWD/$folder uv pip install --quiet --require-hashes -r "$pins"; } ||
    "$folder/bin/python" -m pip install -qq --disable-pip-version-check --require-hashes -r "$pins"; then
    printf '%s' "$key $PWD" > "$folder/.ready"
  else
    echo "peers: $pins could not be installed; the benchmark will say so" >&2
  fi
done
