#!/usr/bin/env bash
# shellcheck disable=SC2154  # the variables are set by script_test.sh
# Stand-ins for the tools that ./statelab calls. Sourced by script_test.sh; each function writes one into $bin.
# All of them append their name and arguments to $calls, so a case can ask what was started.

make_tool() {  # make_tool NAME: body from standard input
  { printf '#!/bin/bash\necho "%s $*" >> "%s"\n' "$1" "$calls"; cat; } > "$bin/$1"
  chmod +x "$bin/$1"
}

# Debian's package tools: $installed lists installed packages, $archive is "up", "down" or "old" (lacks a package).
make_package_tools() {
  make_tool dpkg-query << TEXT
for name in "\${@:3}"; do grep -qx "\$name" "$installed" && echo "installed \$name"; done
true
TEXT
  make_tool apt-get << TEXT
archive=\$(cat "$archive")
case " \$* " in
  *" update "*) [ "\$archive" != down ] || { echo "W: Failed to fetch archive: Temporary failure resolving 'archive'"; exit 0; } ;;
  *" install "*)
    [ "\$archive" != down ] || { echo "E: Failed to fetch archive: Temporary failure resolving 'archive'"; exit 100; }
    [ "\$archive" != old ] || { echo "E: Unable to locate package librandom123-dev"; exit 100; }
    for name in "\$@"; do
      case \$name in
        -* | *=* | install) ;;
        g++) printf '#!/bin/bash\n' > "$bin/g++"; chmod +x "$bin/g++" ;;
        *) echo "\$name" >> "$installed" ;;
      esac
    done ;;
esac
TEXT
}

# cmake: configuring writes a cache, building writes a program that prints its arguments.
make_build_tools() {
  make_tool cmake << TEXT
case \$1 in
  --version) echo "cmake version \$(cat "$cmake_version")" ;;
  --build)
    echo "begin \$\$" >> "$build_events"
    sleep "\$(cat "$build_seconds")"
    echo "[1/2] Building CXX object first.o"
    if [ -f "$break_build" ]; then echo "first.cpp:3:1: error: this line is wrong"; exit 1; fi
    mkdir -p "\$2/experiments"
    printf '#!/bin/bash\necho "home=\$STATELAB_HOME"\nprintf "argument=%%s\\\\n" "\$@"\nexit "\${PROGRAM_EXIT:-0}"\n' > "\$2/experiments/statelab"
    chmod +x "\$2/experiments/statelab"
    echo "end \$\$" >> "$build_events" ;;
  -S) echo "CMAKE_HOME_DIRECTORY:INTERNAL=\$2" > "\$4/CMakeCache.txt" ;;
esac
TEXT
  make_tool ninja < /dev/null
  make_tool ctest << TEXT
case " \$* " in
  *" -N "*) printf '  Test #2: cuda_device.A\n  Test  #3: cuda_device.B/x  # GetParam() = "x" <1>\n'; exit 0 ;;
esac
while [ \$# -gt 0 ]; do [ "\$1" != --output-junit ] || cp "$junit" "\$2"; shift; done
exit "\$(cat "$ctest_exit")"
TEXT
}
