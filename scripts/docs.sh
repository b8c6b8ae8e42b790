#!/bin/sh
# Builds the documentation into site/. A warning (a dead link, a name that does not exist) fails the build.
set -eu
cd "$(dirname "$0")/.."
sh scripts/npm.sh docs
# The page would load the renderer of the diagrams from elsewhere; with this file it is part of the site.
mkdir -p docs/assets
cp tools/docs/node_modules/@mermaid-js/tiny/dist/mermaid.tiny.js docs/assets/mermaid.min.js
rm -rf site
.venv/bin/zensical build --strict --clean
