#!/bin/sh
# Builds bundle.js.gz, and NOTICES.txt with the licences of what is in it, from the versions in package-lock.json.
set -eu
cd "$(dirname "$0")"
npm ci --no-audit --no-fund --loglevel=error
npm run --silent build
# The first line says what it was built from, so that tests find a bundle that is out of date.
{
    printf '// sources %s\n' "$(cat build.mjs src/*.js package.json package-lock.json | sha256sum | cut -d ' ' -f 1)"
    cat build/bundle.js
} | gzip -9n >bundle.js.gz
{
    echo "This page holds three.js, Spark and fflate under the MIT License, and a viewer under the Apache License 2.0."
    for name in three @sparkjsdev/spark fflate; do
        printf '\n%s %s\n\n' "$name" "$(node -p "require('./node_modules/$name/package.json').version")"
        cat "node_modules/$name/LICENSE"
    done
} | sed 's/--/- -/g' >NOTICES.txt
