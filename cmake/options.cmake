# How every target of this project is compiled: `mc_options` carries the flags, rooms, tests and programs link it.

option(METAL_CANDLE_WERROR "Warnings are errors" OFF)
option(METAL_CANDLE_VERIFY "Check the graph after every compiler pass" OFF)
option(METAL_CANDLE_FUZZ "Build the fuzzers of the parsers (tests/fuzz); needs clang" OFF)
set(METAL_CANDLE_SANITIZE "" CACHE STRING "Sanitizers to build with: address,undefined or thread")

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O3 -DNDEBUG" CACHE STRING "")

add_library(mc_options INTERFACE)
target_compile_features(mc_options INTERFACE cxx_std_20)
target_compile_options(mc_options INTERFACE
  -Wall -Wextra -Wpedantic
  -Wno-missing-field-initializers  # a member left out has a default
  -ffp-contract=off)  # a*b+c rounds twice, everywhere: op bodies write fma where they mean it
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(mc_options INTERFACE -fpch-preprocess)  # for ccache
  # GCC notes an ABI change of its version 10 wherever a vector type is passed, and GCC 12 sees memcpy overlap in most
  # sums of std::string.
  target_compile_options(mc_options INTERFACE -Wno-psabi -Wno-restrict)
  # Where sources are compiled together, GCC takes a class for one of a header's that has members of a source's own types.
  target_compile_options(mc_options INTERFACE $<$<BOOL:${CMAKE_UNITY_BUILD}>:-Wno-subobject-linkage>)
endif()
if(METAL_CANDLE_WERROR)
  target_compile_options(mc_options INTERFACE -Werror)
endif()
if(METAL_CANDLE_VERIFY)
  target_compile_definitions(mc_options INTERFACE METAL_CANDLE_VERIFY=1)
endif()
if(METAL_CANDLE_SANITIZE)
  set(flags -fsanitize=${METAL_CANDLE_SANITIZE} -fno-omit-frame-pointer)
  if(METAL_CANDLE_SANITIZE MATCHES undefined)
    list(APPEND flags -fno-sanitize-recover=undefined)
  endif()
  target_compile_options(mc_options INTERFACE ${flags})
  target_link_options(mc_options INTERFACE ${flags})
endif()
if(METAL_CANDLE_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "METAL_CANDLE_FUZZ needs clang (-DCMAKE_CXX_COMPILER=clang++), not ${CMAKE_CXX_COMPILER_ID}")
  endif()
  target_compile_options(mc_options INTERFACE -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined)
  target_link_options(mc_options INTERFACE -fsanitize=address,undefined)
endif()

# ccache where there is one, unless the caller chose a launcher.
if(NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(METAL_CANDLE_CCACHE ccache)
  mark_as_advanced(METAL_CANDLE_CCACHE)
  if(METAL_CANDLE_CCACHE)
    # Without that it keeps nothing that was compiled with precompiled headers, as rooms and tests are.
    set(CMAKE_CXX_COMPILER_LAUNCHER
      env CCACHE_SLOPPINESS=pch_defines,time_macros ${METAL_CANDLE_CCACHE})
  endif()
endif()
