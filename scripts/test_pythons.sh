#!/usr/bin/env bash
# Runs `make test` under each of the given versions of Python, in an environment of its own (.venv-3.12 and so on).
# Ends with a line for each version: passed, failed, or not run because the interpreter is missing.
set -uo pipefail
cd "$(dirname "$0")/.."

is_version() { "$1" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$2')" 2>/dev/null; }

results=()
for version in "$@"; do
  result="not run: no python$version on PATH or among pyenv's versions"
  for python in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
    if is_version "$python" "$version"; then
      if make test PYTHON="$python" VENV=".venv-$version"; then result=passed; else result=failed; fi
      break
    fi
  done
  results+=("Python $version: $result")
done
printf '%s\n' "${results[@]}"
[[ "${results[*]}" != *failed* ]]
