# What all targets share: flags, and the instruction sets that kernels are compiled for, which are
# those of the processor that is built for. CMakeLists.txt includes it here and in lite/.

set(TFCONV_CXXFLAGS "" CACHE STRING "Compiler flags, put after all others")
set(TFCONV_LDFLAGS "" CACHE STRING "Linker flags, put after all others")
set(TFCONV_SANITIZE "" CACHE STRING "address (and undefined behaviour) or thread")

set(TFCONV_CC ${CMAKE_CURRENT_LIST_DIR})
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(TFCONV_LAST_FLAGS "")
set(TFCONV_FLAGS -Wall -Wextra -ffunction-sections -fdata-sections)

if(TFCONV_SANITIZE STREQUAL "address")
  set(TFCONV_SANITIZER -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all)
elseif(TFCONV_SANITIZE)
  set(TFCONV_SANITIZER -fsanitize=${TFCONV_SANITIZE})
endif()
if(TFCONV_SANITIZE)
  set(TFCONV_LAST_FLAGS -O1 -g1 -fno-omit-frame-pointer ${TFCONV_SANITIZER})
endif()
if(TFCONV_CXXFLAGS)
  list(APPEND TFCONV_LAST_FLAGS "SHELL:${TFCONV_CXXFLAGS}")
endif()
if(TFCONV_RESPONSE_FILE) # of tfconv/_build.py
  list(APPEND TFCONV_LAST_FLAGS @${TFCONV_RESPONSE_FILE})
endif()

# tfconv_target(name flags...): a target of ours, compiled with these flags.
function(tfconv_target name)
  target_include_directories(${name} PRIVATE ${TFCONV_CC})
  target_compile_options(${name} PRIVATE ${ARGN} ${TFCONV_FLAGS}
                                         -ffile-prefix-map=${TFCONV_CC}=cc ${TFCONV_LAST_FLAGS})
endfunction()

# tfconv_linked(name flags...): a library or program of ours, linked with these flags.
function(tfconv_linked name)
  separate_arguments(last UNIX_COMMAND "${TFCONV_LDFLAGS}")
  if(NOT APPLE)
    target_link_options(${name} PRIVATE -Wl,--gc-sections ${TFCONV_LINKER})
  endif()
  target_link_options(${name} PRIVATE ${ARGN} ${TFCONV_SANITIZER})
  target_link_libraries(${name} PRIVATE ${last})
endfunction()

include(CheckCXXSourceCompiles)
check_cxx_source_compiles("
#ifndef __x86_64__
#error Another processor.
#endif
int main() {}" TFCONV_X86_64)
if(TFCONV_X86_64)
  set(TFCONV_ISAS avx512 avx512bf16 avx2 base)
  set(base_FLAGS -O2) # where few processors take it, half of the compiler's time
  set(avx2_FLAGS -mavx2 -mfma -mf16c)
  set(avx512_FLAGS -mavx512f -mavx512bw -mavx512dq -mavx512vl ${avx2_FLAGS}
                   -mprefer-vector-width=512)
  set(avx512bf16_FLAGS -mavx512bf16 ${avx512_FLAGS})
else()
  set(TFCONV_ISAS base)
endif()
set(TFCONV_KERNELS $<TARGET_OBJECTS:tfconv_isa>)
foreach(ISA IN LISTS TFCONV_ISAS)
  list(APPEND TFCONV_KERNELS $<TARGET_OBJECTS:tfconv_kernels_${ISA}>)
endforeach()
