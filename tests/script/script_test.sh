#!/usr/bin/env bash
# script_test.sh SCRIPT CASE: runs one case_CASE below in a folder of its own. Exit 0 passed, 1 failed, 77 skipped.
set -u
script=$1 case=$2
here=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The project under test: the script and one source per folder, in a path with a blank.
project="$work/a project"
bin=$work/bin calls=$work/calls installed=$work/installed archive=$work/archive cmake_version=$work/cmake_version
build_events=$work/build_events build_seconds=$work/build_seconds break_build=$work/break_build junit=$work/junit
ctest_exit=$work/ctest_exit
mkdir -p "$bin" "$project"
for folder in kernels tasks models store reports experiments cmake tests; do
  mkdir "$project/$folder"
  echo "// source" > "$project/$folder/source.cpp"
done
cp "$script" "$project/statelab"
echo "project()" > "$project/CMakeLists.txt"
touch "$calls" "$installed"
echo up > "$archive"
echo 3.25.1 > "$cmake_version"
echo 0 > "$build_seconds"
echo 0 > "$ctest_exit"

# Nothing of this machine is visible but these.
for tool in bash env awk basename cat chmod cp date dirname find flock grep head mkdir mktemp mv nproc readlink rm sed sleep sort \
    tail tee touch; do
  ln -s "$(type -P "$tool")" "$bin/$tool" || exit 1
done
. "$here/stand_ins.sh"
make_tool g++ < /dev/null
make_tool id <<< 'echo ${FAKE_UID:-0}'
make_build_tools
make_package_tools
all_packages=(libeigen3-dev libcli11-dev libyaml-cpp-dev libfmt-dev libspdlog-dev nlohmann-json3-dev libsqlite3-dev
              libsqlitecpp-dev libssl-dev librandom123-dev libgtest-dev libgmock-dev)
printf '%s\n' "${all_packages[@]}" > "$installed"

# run ARGS...: the script with standard input closed; sets $status, $out and $err.
run() {
  (cd / && env -i PATH="$bin" HOME="$work" FAKE_UID="${FAKE_UID:-0}" PROGRAM_EXIT="${PROGRAM_EXIT:-0}" \
    ${STATELAB_CUDA:+STATELAB_CUDA="$STATELAB_CUDA"} ${STATELAB_JOBS:+STATELAB_JOBS="$STATELAB_JOBS"} \
    "$project/statelab" "$@") > "$work/out" 2> "$work/err" < /dev/null
  status=$?
  out=$(cat "$work/out") err=$(cat "$work/err")
}

fail() {
  printf 'FAILED: %s\n--- status %s\n--- stdout\n%s\n--- stderr\n%s\n--- calls\n%s\n' "$*" "${status:-}" "${out:-}" "${err:-}" \
    "$(cat "$calls")"
  exit 1
}
expect_status() { [ "$status" = "$1" ] || fail "expected exit $1"; }
expect_in() { case $2 in *"$1"*) ;; *) fail "expected to read: $1" ;; esac; }
expect_not_in() { case $2 in *"$1"*) fail "did not expect to read: $1" ;; esac; }
expect_one_line() { [ "$(grep -c . <<< "$1")" = 1 ] || fail "expected one line, got: $1"; }
count_calls() { grep -c "^$1" "$calls"; }

case_fresh_machine_installs_builds_and_runs() {
  : > "$installed"
  rm "$bin/g++"
  run quickstart
  expect_status 0
  expect_in "statelab: installing g++ libeigen3-dev" "$err"
  expect_in "argument=quickstart" "$out"
  grep -q "^apt-get .*install .*libgmock-dev" "$calls" || fail "apt-get was not asked for the packages"
}

case_only_missing_packages_are_installed() {
  grep -vx libfmt-dev "$installed" > "$work/less" && mv "$work/less" "$installed"
  run ls
  expect_status 0
  expect_in "statelab: installing libfmt-dev" "$err"
  expect_not_in "libssl-dev" "$err"
}

case_complete_machine_installs_nothing() {
  run ls
  expect_status 0
  [ "$(count_calls apt-get)" = 0 ] || fail "apt-get was called"
}

case_arguments_home_and_exit_code_pass_through() {
  PROGRAM_EXIT=3 run run "my sweep.yaml" train.batch=128 ""
  expect_status 3
  expect_in "home=$project" "$out"
  expect_in $'argument=run\nargument=my sweep.yaml\nargument=train.batch=128\nargument=' "$out"
}

case_progress_goes_to_standard_error() {
  run ls
  expect_not_in "statelab:" "$out"
  expect_in "statelab: built in" "$err"
}

case_without_root_and_terminal_one_line_names_the_command() {
  : > "$installed"
  make_tool sudo <<< 'exec "$@"'
  FAKE_UID=1000 run ls
  expect_status 1
  expect_one_line "$err"
  expect_in "as root run: apt-get install -y ${all_packages[*]}" "$err"
  [ "$(count_calls apt-get)" = 0 ] || fail "apt-get was called without permission"
}

case_without_root_and_sudo_one_line_names_the_command() {
  : > "$installed"
  FAKE_UID=1000 run ls
  expect_status 1
  expect_one_line "$err"
  expect_in "neither root nor sudo is available; as root run: apt-get install -y ${all_packages[*]}" "$err"
}

case_no_compiler_without_root_is_one_line() {
  rm "$bin/g++"
  FAKE_UID=1000 run ls
  expect_status 1
  expect_one_line "$err"
  expect_in "no C++ compiler is installed" "$err"
  expect_in "apt-get install -y g++" "$err"
}

# Answers the question on a pseudo-terminal.
answer_on_terminal() {
  type -P script > /dev/null || { echo "the program script is not installed"; exit 77; }
  : > "$installed"
  make_tool sudo <<< 'exec "$@"'
  local real_script
  real_script=$(type -P script)
  echo "$1" | env -i PATH="$bin" HOME="$work" SHELL=/bin/bash FAKE_UID=1000 "$real_script" -qec \
    "'$project/statelab' ls" /dev/null > "$work/out" 2>&1
  status=$? out=$(cat "$work/out") err=
}

case_terminal_is_asked_and_yes_installs() {
  answer_on_terminal y
  expect_status 0
  expect_in "install them now with 'sudo apt-get install'?" "$out"
  grep -q "^sudo .*apt-get .*install" "$calls" || fail "sudo apt-get was not called"
}

case_terminal_is_asked_and_no_installs_nothing() {
  answer_on_terminal n
  expect_status 1
  expect_in "nothing was installed" "$out"
  [ "$(count_calls sudo)" = 0 ] || fail "sudo was called after a no"
}

case_no_network_is_one_clear_line() {
  : > "$installed"
  echo down > "$archive"
  run ls
  expect_status 1
  expect_one_line "$(grep -v '^statelab: installing' <<< "$err")"
  expect_in "no network: the package archive cannot be reached" "$err"
}

case_release_without_a_package_is_named() {
  : > "$installed"
  echo old > "$archive"
  run ls
  expect_status 1
  expect_in "Unable to locate package librandom123-dev" "$err"
}

case_other_distribution_is_one_clear_line() {
  rm "$bin/apt-get" "$bin/dpkg-query"
  run ls
  expect_status 1
  expect_one_line "$err"
  expect_in "Debian and Ubuntu only" "$err"
  expect_in "STATELAB_PACKAGES=skip" "$err"
}

case_old_cmake_is_refused() {
  echo 3.22.1 > "$cmake_version"
  run ls
  expect_status 1
  expect_in "cmake 3.25 or newer is needed" "$err"
  expect_in "is 3.22.1" "$err"
}

case_nothing_changed_starts_no_tool() {
  run ls
  expect_status 0
  : > "$calls"
  run ls
  expect_status 0
  [ ! -s "$calls" ] || fail "tools were started although nothing changed"
  [ -z "$err" ] || fail "something was said although nothing changed"
}

# rebuilds_after COMMAND...: the command makes the next call build once, and the call after that not.
rebuilds_after() {
  "$@"
  : > "$calls"
  run ls
  expect_status 0
  [ "$(count_calls 'cmake --build')" = 1 ] || fail "no build after: $*"
  : > "$calls"
  run ls
  [ "$(count_calls cmake)" = 0 ] || fail "a second build after: $*"
}

case_changed_source_is_noticed() {
  run ls
  rebuilds_after cp "$project/CMakeLists.txt" "$project/store/source.cpp"
}

case_added_source_is_noticed_even_with_an_old_date() {
  run ls
  rebuilds_after touch -d 2001-01-01 "$project/models/added.cpp"
}

case_removed_source_is_noticed() {
  touch "$project/kernels/extra.cpp"
  run ls
  rebuilds_after rm "$project/kernels/extra.cpp"
}

case_source_put_back_to_an_older_date_is_noticed() {
  run ls
  rebuilds_after touch -d 2001-01-01 "$project/tasks/source.cpp"
}

case_tests_do_not_rebuild_the_program() {
  run ls
  echo "// more" >> "$project/tests/source.cpp"
  : > "$calls"
  run ls
  [ "$(count_calls cmake)" = 0 ] || fail "a change in tests/ rebuilt the program"
}

case_other_settings_configure_again() {
  run ls
  : > "$calls"
  STATELAB_CUDA=OFF run ls
  expect_status 0
  grep -q "^cmake -S .*-DSTATELAB_CUDA=OFF" "$calls" || fail "STATELAB_CUDA=OFF did not reach cmake"
}

case_jobs_must_be_a_number() {
  STATELAB_JOBS=many run ls
  expect_status 2
  expect_in "STATELAB_JOBS must be a number from 1 on: it is 'many'" "$err"
}

case_failed_build_shows_the_error_and_is_tried_again() {
  touch "$break_build"
  run ls
  expect_status 1
  expect_in "first.cpp:3:1: error: this line is wrong" "$err"
  expect_not_in "[1/2]" "$err"
  rm "$break_build"
  run ls
  expect_status 0
}

case_failed_rebuild_does_not_run_the_old_program() {
  run ls
  expect_status 0
  echo "// wrong" >> "$project/store/source.cpp"
  touch "$break_build"
  run ls
  expect_status 1
  run ls
  expect_status 1
  expect_not_in "argument=" "$out"
}

case_moved_folder_starts_afresh() {
  run ls
  mv "$project" "$work/moved"
  project=$work/moved
  echo stale > "$project/build/release/stale"
  : > "$calls"
  echo "// touched" >> "$project/store/source.cpp"
  run ls
  expect_status 0
  expect_in "belongs to another folder" "$err"
  [ ! -e "$project/build/release/stale" ] || fail "the old build is still there"
}

case_two_at_once_build_once() {
  echo 1 > "$build_seconds"
  local first second
  (run ls; exit "$status") & first=$!
  (run ls; exit "$status") & second=$!
  wait "$first" || fail "the first call failed"
  wait "$second" || fail "the second call failed"
  [ "$(grep -c begin "$build_events")" = 1 ] || fail "built more than once: $(cat "$build_events")"
}

case_two_kinds_at_once_never_overlap() {
  echo 1 > "$build_seconds"
  echo '<testcase name="a" status="run"/>' > "$junit"
  local first second
  (run ls; exit "$status") & first=$!
  (run test; exit "$status") & second=$!
  wait "$first" || fail "the first call failed"
  wait "$second" || fail "the second call failed"
  [ "$(cut -d' ' -f1 "$build_events" | tr '\n' ' ')" = "begin end begin end " ] ||
    fail "builds overlapped: $(cat "$build_events")"
}

# Two passed (one of them CUDA), one failed, one missing program, one skipped CUDA test.
write_junit() {
  cat > "$junit" << 'TEXT'
<testsuite name="(empty)" tests="3">
  <testcase name="kernels.A" classname="kernels.A" time="0" status="run">
  </testcase>
  <testcase name="cuda_device.A" classname="cuda_device.A" time="0" status="run">
  </testcase>
  <testcase name="cuda_device.B/x  # GetParam() = &quot;x&quot; &lt;1&gt;" classname="cuda_device.B/x" time="0" status="notrun">
    <skipped message="SKIP_REGULAR_EXPRESSION_MATCHED"/>
  </testcase>
TEXT
  [ "${1:-}" != failing ] || cat >> "$junit" << 'TEXT'
  <testcase name="store.B" classname="store.B" time="0" status="fail">
  </testcase>
  <testcase name="store.C" classname="store.C" time="0" status="notrun">
    <skipped message="Unable to find executable"/>
  </testcase>
TEXT
}

case_test_counts_what_ran_and_what_was_skipped() {
  write_junit
  run test
  expect_status 0
  expect_in "CUDA tests: 1 run, 1 skipped" "$out"
  [ "$(tail -n1 <<< "$out")" = "statelab: 2 passed, 0 failed, 1 skipped" ] || fail "wrong closing line"
}

case_test_builds_everything_and_hands_arguments_to_ctest() {
  write_junit
  run test -R "some name"
  expect_status 0
  grep -q "^cmake --build .*--target all" "$calls" || fail "the tests were not built"
  grep -q "^ctest .*--no-tests=error .*-R some name" "$calls" || fail "the arguments did not reach ctest"
}

case_failing_tests_exit_1_and_programs_that_are_missing_count_as_failed() {
  write_junit failing
  echo 8 > "$ctest_exit"
  run test
  expect_status 1
  expect_in "2 passed, 2 failed, 1 skipped" "$out"
}

case_require_cuda_exits_4_when_a_cuda_test_was_skipped() {
  write_junit
  run test --require-cuda
  expect_status 4
  expect_in "1 CUDA tests were skipped and 1 ran" "$err"
}

case_require_cuda_exits_4_when_no_cuda_test_ran() {
  echo '<testcase name="kernels.A" status="run">' > "$junit"
  run test --require-cuda
  expect_status 4
}

case_require_cuda_exits_0_when_all_ran() {
  write_junit
  grep -v 'cuda_device.B\|SKIP_' "$junit" > "$work/all_ran" && mv "$work/all_ran" "$junit"
  run test --require-cuda
  expect_status 0
}

case_test_help_needs_no_build() {
  run test --help
  expect_status 0
  expect_in "--require-cuda" "$out"
  [ ! -s "$calls" ] || fail "tools were started for a help text"
}

declare -F "case_$case" > /dev/null || { echo "no such case: $case"; exit 1; }
"case_$case"
