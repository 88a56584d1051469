#!/usr/bin/env bash
# include_style.sh ROOT: every quoted include starts at one of the folders and has no "..", and no source lies at the root.
# A name without a folder is allowed for a header that the folder's own CMakeLists.txt generates.
set -u
cd "$1" || exit 1
status=0
layers='kernels|tasks|models|store|reports|experiments|tests'
include='^[[:space:]]*#[[:space:]]*include[[:space:]]*"'
while IFS=: read -r file number line; do
  name=${line#*\"}
  name=${name%%\"*}
  generated=no
  case $name in */*) ;; *) grep -q "/$name" "${file%%/*}/CMakeLists.txt" && generated=yes ;; esac
  if [[ $name == *..* ]] || { [[ ! $name =~ ^($layers)/ ]] && [ $generated = no ]; }; then
    echo "$file:$number: an include must read \"folder/file.h\", without \"..\": it is \"$name\""
    status=1
  fi
done < <(grep -rnE "$include" --include='*.h' --include='*.cpp' --include='*.cu' --include='*.cuh' \
  kernels tasks models store reports experiments tests)
stray=$(find . -maxdepth 1 -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \))
if [ -n "$stray" ]; then
  echo "sources live in a folder, not at the root: $stray"
  status=1
fi
exit $status
