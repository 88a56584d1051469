# statelab_library(models SOURCES ... HEADERS ... PUBLIC statelab::kernels PRIVATE ...)
# Each library gets an include root of its own that holds one link, <name> -> its source folder, so that
# #include "store/database.h" compiles only in targets that link statelab::store. Sources include by folder name.
function(statelab_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;HEADERS;PUBLIC;PRIVATE" ${ARGN})
  set(root ${PROJECT_BINARY_DIR}/layers/${name})
  file(MAKE_DIRECTORY ${root})
  file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR} ${root}/${name} SYMBOLIC)
  list(TRANSFORM ARG_HEADERS PREPEND ${root}/${name}/)
  add_library(statelab_${name} STATIC ${ARG_SOURCES})
  add_library(statelab::${name} ALIAS statelab_${name})
  target_sources(statelab_${name} PUBLIC FILE_SET HEADERS BASE_DIRS ${root} FILES ${ARG_HEADERS})
  target_link_libraries(statelab_${name} PUBLIC ${ARG_PUBLIC} PRIVATE statelab_flags ${ARG_PRIVATE})
endfunction()

# statelab_part(rng OF kernels HEADERS rng.h): statelab::rng offers these headers of a library, and its code, but none of its
# other headers. For a folder that may use one thing only of another.
function(statelab_part part)
  cmake_parse_arguments(ARG "" "OF" "HEADERS;PUBLIC" ${ARGN})
  set(root ${PROJECT_BINARY_DIR}/layers/${ARG_OF}-${part})
  file(MAKE_DIRECTORY ${root}/${ARG_OF})
  foreach(header ${ARG_HEADERS})
    file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR}/${header} ${root}/${ARG_OF}/${header} SYMBOLIC)
  endforeach()
  add_library(statelab_${part} INTERFACE)
  add_library(statelab::${part} ALIAS statelab_${part})
  target_include_directories(statelab_${part} INTERFACE ${root})
  target_link_libraries(statelab_${part} INTERFACE ${ARG_PUBLIC} $<LINK_ONLY:statelab_${ARG_OF}>)
endfunction()

# statelab_test(kernels SOURCES ... LINK ...): one GoogleTest program per folder, its cases in ctest as kernels.Suite.Case.
# Further named arguments: TIMEOUT seconds (default 300), LABELS (default unit).
function(statelab_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LINK;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  set(root ${PROJECT_BINARY_DIR}/layers/tests)
  file(MAKE_DIRECTORY ${root})
  file(CREATE_LINK ${PROJECT_SOURCE_DIR}/tests ${root}/tests SYMBOLIC)
  add_executable(test_${name} ${ARG_SOURCES})
  target_include_directories(test_${name} PRIVATE ${root})   # "tests/support/...h"
  target_compile_definitions(test_${name} PRIVATE STATELAB_GOLDEN_DIR="${PROJECT_SOURCE_DIR}/tests/golden"
    STATELAB_SOURCE_DIR="${PROJECT_SOURCE_DIR}" STATELAB_BINARY_DIR="${PROJECT_BINARY_DIR}")
  target_link_libraries(test_${name} PRIVATE statelab_flags ${ARG_LINK} GTest::gtest GTest::gmock GTest::gtest_main)
  if(CMAKE_BUILD_TYPE STREQUAL "Release")
    target_compile_options(test_${name} PRIVATE -O1)   # what is tested is optimised, the testing need not be
  endif()
  gtest_discover_tests(test_${name} DISCOVERY_MODE PRE_TEST TEST_PREFIX "${name}."
    PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
endfunction()
