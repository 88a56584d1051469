#!/usr/bin/env bash
# public_headers.sh HEADER...: no public header includes Eigen, SQLite, YAML, JSON, CLI11, spdlog, fmt, OpenSSL or CUDA.
set -u
[ $# -gt 0 ] || { echo "no public headers were given"; exit 1; }
pattern='#[[:space:]]*include[[:space:]]*[<"](Eigen|unsupported|SQLiteCpp|sqlite3|yaml-cpp|nlohmann|CLI|spdlog|fmt|openssl|cuda)'
if grep -nE "$pattern" "$@"; then
  echo "a public header must not include third-party headers: move them to the .cpp"
  exit 1
fi
echo "$# public headers checked"
