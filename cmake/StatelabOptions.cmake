# Build type, architecture and warnings, gathered in one interface target.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo" FORCE)
endif()

# Target all_verify_interface_header_sets: each public header compiles alone (tests/layering builds it).
set(CMAKE_VERIFY_INTERFACE_HEADER_SETS ON)

# Tests and glue gain nothing from -O3; the kernels ask for it themselves (kernels/CMakeLists.txt).
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")

option(STATELAB_TESTS "Build the tests" ON)
option(STATELAB_SANITIZE "Address and undefined-behaviour sanitizers" OFF)
set(STATELAB_CUDA AUTO CACHE STRING "CUDA backend: AUTO (when nvcc is found), ON or OFF")
set_property(CACHE STATELAB_CUDA PROPERTY STRINGS AUTO ON OFF)
# One fixed architecture rather than "native": the same source then gives the same bits on every machine that has it.
set(STATELAB_MARCH "x86-64-v3" CACHE STRING "-march= for host code; empty for the compiler's default")

find_program(STATELAB_CCACHE ccache)
if(STATELAB_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${STATELAB_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${STATELAB_CCACHE})
endif()

add_library(statelab_flags INTERFACE)
target_compile_options(statelab_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Werror -Wno-restrict>)
if(STATELAB_MARCH AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  target_compile_options(statelab_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-march=${STATELAB_MARCH}>)
endif()
if(STATELAB_SANITIZE)
  target_compile_options(statelab_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=address,undefined -fno-omit-frame-pointer>)
  target_link_options(statelab_flags INTERFACE -fsanitize=address,undefined)
endif()
