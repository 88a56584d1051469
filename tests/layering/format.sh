#!/usr/bin/env bash
# format.sh ROOT: sources are formatted by .clang-format; skipped (77) where clang-format is not installed.
set -u
cd "$1" || exit 1
command -v clang-format > /dev/null || { echo "clang-format is not installed"; exit 77; }
sources() {
  find kernels tasks models store reports experiments tests -type f \
    \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0
}
count=$(sources | tr -cd '\0' | wc -c)
[ "$count" -gt 0 ] || { echo "no sources found in $1"; exit 1; }
wrong=$(sources | xargs -0 -n 16 -P 2 clang-format --style=file --dry-run --ferror-limit=1 2>&1 |
  sed -n 's/^\([^:]*\):[0-9]*:[0-9]*: \(warning\|error\):.*/\1/p' | sort -u)
if [ -n "$wrong" ]; then
  echo "$(wc -l <<< "$wrong") of $count files differ from .clang-format; run: clang-format -i" $wrong
  exit 1
fi
echo "$count files checked"
