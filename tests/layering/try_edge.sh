#!/usr/bin/env bash
# try_edge.sh COMPILER SOURCE HEADER REAL_INCLUDE_DIR... -- ADDED_INCLUDE_DIR...
# SOURCE includes HEADER. It must be "not found" with the real directories and compile with the added ones.
set -u
compiler=$1 source=$2 header=$3
shift 3
real=() added=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do real+=("-I$1"); shift; done
shift
for dir in "$@"; do added+=("-I$dir"); done

if output=$("$compiler" -std=c++20 -fsyntax-only "${real[@]}" "$source" 2>&1); then
  echo "forbidden include compiles: $header is visible in $source"
  exit 1
fi
case $output in
  *"$header: No such file"* | *"'$header' file not found"*) ;;
  *) echo "expected $header to be not found, the compiler said: $output"; exit 1 ;;
esac
if ! output=$("$compiler" -std=c++20 -fsyntax-only "${real[@]}" "${added[@]}" "$source" 2>&1); then
  echo "control failed: $header does not compile even where it is allowed: $output"
  exit 1
fi
