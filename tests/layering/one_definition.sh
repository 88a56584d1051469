#!/usr/bin/env bash
# one_definition.sh ROOT: no type is defined in two headers under one qualified name. The linker would merge the two
# classes' functions silently, and programs would free memory by the wrong layout.
set -u
cd "$1" || exit 1
mapfile -t headers < <(find kernels tasks models store reports experiments -name '*.h' | sort)
[ "${#headers[@]}" -gt 0 ] || { echo "no headers found in $1"; exit 1; }
twice=$(awk '
  FNR == 1 { scope = "" }
  /^namespace [A-Za-z0-9_:]* *\{/ { scope = $2; sub(/\{.*/, "", scope) }
  /^\} *\/\/ namespace/ { scope = "" }
  /^(struct|class) [A-Za-z0-9_]+( final)?( :.*)? \{/ {
    name = scope "::" $2
    if (name in where && where[name] != FILENAME) print name " in " where[name] " and " FILENAME
    where[name] = FILENAME
  }' "${headers[@]}")
if [ -n "$twice" ]; then
  echo "defined twice:"
  echo "$twice"
  exit 1
fi
echo "${#headers[@]} headers checked"
