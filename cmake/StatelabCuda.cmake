# STATELAB_CUDA = AUTO | ON | OFF, resolved into STATELAB_HAVE_CUDA (TRUE or FALSE) and, when it is true, an enabled CUDA
# language. AUTO takes CUDA when an nvcc is found that compiles; ON makes its absence an error; OFF never looks for one.
set(STATELAB_HAVE_CUDA FALSE)
string(TOUPPER "${STATELAB_CUDA}" statelab_cuda_choice)
if(NOT statelab_cuda_choice MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "STATELAB_CUDA must be AUTO, ON or OFF: it is '${STATELAB_CUDA}'")
endif()

if(NOT statelab_cuda_choice STREQUAL "OFF")
  if(NOT CMAKE_CUDA_COMPILER)   # a negative answer is not kept: a toolkit may have been installed since
    unset(CMAKE_CUDA_COMPILER CACHE)
    unset(STATELAB_NVCC CACHE)
    find_program(STATELAB_NVCC nvcc HINTS $ENV{CUDACXX} ENV CUDA_HOME ENV CUDA_PATH /usr/local/cuda PATH_SUFFIXES bin)
    mark_as_advanced(STATELAB_NVCC)
  endif()
  # Hopper unless told otherwise; set before the language is enabled, which else picks the toolkit's oldest.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
    set(CMAKE_CUDA_ARCHITECTURES 90 CACHE STRING "GPU architectures to compile for")
  endif()
  if(CMAKE_CUDA_COMPILER OR STATELAB_NVCC)
    if(NOT DEFINED ENV{CUDACXX} AND STATELAB_NVCC)
      set(ENV{CUDACXX} ${STATELAB_NVCC})
    endif()
    if(NOT DEFINED ENV{CUDAARCHS})
      set(ENV{CUDAARCHS} "${CMAKE_CUDA_ARCHITECTURES}")
    endif()
    include(CheckLanguage)
    check_language(CUDA)
  endif()
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)   # the program then starts on machines without any CUDA library
    enable_language(CUDA)
    # The language follows CMAKE_CXX_STANDARD; CMake 3.25 does not know yet how nvcc spells it.
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    find_package(CUDAToolkit REQUIRED)
    set(STATELAB_HAVE_CUDA TRUE)
  elseif(statelab_cuda_choice STREQUAL "ON")
    if(STATELAB_NVCC)
      message(FATAL_ERROR "STATELAB_CUDA=ON needs a working nvcc: ${STATELAB_NVCC} does not compile a test program "
                          "(see ${PROJECT_BINARY_DIR}/CMakeFiles/CMakeError.log)")
    endif()
    message(FATAL_ERROR "STATELAB_CUDA=ON needs nvcc, and none was found in PATH, CUDACXX, CUDA_HOME, CUDA_PATH or "
                        "/usr/local/cuda: install the CUDA toolkit or set STATELAB_CUDA=OFF")
  endif()
endif()

if(STATELAB_HAVE_CUDA)
  # No fast-math anywhere. Warnings of nvcc and of its host compiler are errors as in C++.
  target_compile_options(statelab_flags INTERFACE
    "$<$<COMPILE_LANGUAGE:CUDA>:--Werror=all-warnings;-Xcompiler=-Wall,-Wextra>")
  if(STATELAB_MARCH AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    target_compile_options(statelab_flags INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-march=${STATELAB_MARCH}>")
  endif()
  message(STATUS "CUDA backend: yes (nvcc ${CMAKE_CUDA_COMPILER_VERSION}, architectures ${CMAKE_CUDA_ARCHITECTURES})")
else()
  message(STATUS "CUDA backend: no (STATELAB_CUDA=${STATELAB_CUDA})")
endif()
