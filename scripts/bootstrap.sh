#!/bin/sh
# Makes .venv (Python >= 3.13) with the project and exactly the packages of one requirements file:
#   sh scripts/bootstrap.sh [run|test|dev]      run: what the library needs. test: and the tests. dev: everything.
# Does nothing when .venv already has that much of the current pins. Uses uv where it works, else pip.
set -eu
cd "$(dirname "$0")/.."
want=${1:-dev}
case "$want" in
  run) enough="run test dev" ;;
  test) enough="test dev" ;;
  dev) enough="dev" ;;
  *) echo "bootstrap: run, test or dev, not '$want'" >&2; exit 2 ;;
esac

key=$(cat pyproject.toml requirements/*.txt scripts/bootstrap.sh | cksum)
ready=""
if [ -x .venv/bin/python ] && [ -f .venv/.ready ]; then
  ready=$(cat .venv/.ready)
  for have in $enough; do
    if [ "$ready" = "$have $key $PWD" ]; then exit 0; fi
  done
  # New pins never take away what .venv was made for.
  case "$ready" in
    dev\ *) want=dev ;;
    test\ *) if [ "$want" = run ]; then want=test; fi ;;
  esac
fi

good() { "$1" -c 'import sys, venv; sys.exit(sys.version_info < (3, 13))' >/dev/null 2>&1; }
find_python() {
  for p in "${PYTHON:-}" python3.13 python3.14 python3.15 python3 python \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[3-9]*/bin/python \
    "$HOME"/.local/share/uv/python/cpython-3.1[3-9]*/bin/python3 \
    /opt/homebrew/bin/python3.1[3-9] /usr/local/bin/python3.1[3-9] \
    /Library/Frameworks/Python.framework/Versions/3.1[3-9]/bin/python3; do
    if [ -n "$p" ] && good "$p"; then command -v "$p"; return 0; fi
  done
  return 1
}

# A pyenv shim for a uv of another Python answers 127 here: then pip does it.
if uv --version >/dev/null 2>&1; then uv=yes; else uv=no; fi

here=no
case "$ready" in *" $PWD") if good .venv/bin/python; then here=yes; fi ;; esac
if [ "$here" = no ]; then
  if python=$(find_python); then
    echo "setting up .venv ($want) with $python" >&2
    if ! "$python" -m venv --clear .venv >.venv-error 2>&1; then
      cat .venv-error >&2
      echo "sitq: '$python -m venv' failed. On Debian and Ubuntu, install python3-venv and run this again." >&2
      rm -rf .venv .venv-error
      exit 3
    fi
    rm -f .venv-error
  elif [ "$uv" = yes ]; then
    echo "setting up .venv ($want) with a Python that uv provides" >&2
    uv venv --quiet --clear --python 3.13 .venv
  else
    echo "sitq needs Python 3.13 or newer. Install it, or install uv, and run this again." >&2
    exit 3
  fi
fi

# Set up from here on, but not yet ready: a second try installs into it again.
printf '%s' "$want unfinished $PWD" > .venv/.ready

# What the examples read data files of comes without its dependencies: requirements/data.txt.
data=""
if [ "$want" != run ]; then data=requirements/data.txt; fi

# The hashes cover every package. The project itself is built by the pinned uv_build, which looks for its program
# on PATH, and needs no network.
PATH=$PWD/.venv/bin:$PATH
export PATH
with_uv() {
  VIRTUAL_ENV=$PWD/.venv uv pip install --quiet --require-hashes -r "requirements/$want.txt" &&
    { [ -z "$data" ] ||
      VIRTUAL_ENV=$PWD/.venv uv pip install --quiet --no-deps --no-build-isolation --require-hashes -r "$data"; } &&
    VIRTUAL_ENV=$PWD/.venv uv pip install --quiet --no-deps --no-build-isolation --editable .
}
with_pip() {
  .venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r "requirements/$want.txt" &&
    { [ -z "$data" ] ||
      .venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation \
        --require-hashes -r "$data"; } &&
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
}
if [ "$uv" = yes ] && with_uv; then
  :
elif .venv/bin/python -m pip --version >/dev/null 2>&1; then
  if [ "$uv" = yes ]; then echo "uv could not do it, trying pip" >&2; fi
  with_pip || exit 3
else
  exit 3
fi
printf '%s' "$want $key $PWD" > .venv/.ready
