# What all targets share: flags, and the instruction sets that kernels are compiled for.
# CMakeLists.txt includes it here and in lite/.

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
set(KNOWN_ISAS base) # then wider ones, as in common/isa.h
if(TFCONV_X86_64)
  list(APPEND KNOWN_ISAS avx2 avx512 avx512bf16)
  set(base_FLAGS -O2) # where few processors take it, half of the compiler's time
  set(avx2_FLAGS -mavx2 -mfma -mf16c)
  set(avx512_FLAGS -mavx512f -mavx512bw -mavx512dq -mavx512vl ${avx2_FLAGS}
                   -mprefer-vector-width=512)
  set(avx512bf16_FLAGS -mavx512bf16 ${avx512_FLAGS})
endif()

# Those of the libraries. Kernels for the others are compiled for tests only.
set(TFCONV_ISAS all CACHE STRING
    "Instruction sets: all, native (AVX2 and the best that this processor has), or names")
string(REGEX MATCHALL "[^,; ]+" ISAS "${TFCONV_ISAS}")
if(ISAS STREQUAL "native")
  set(ISAS all)
  if(TFCONV_X86_64 AND NOT CMAKE_CROSSCOMPILING)
    # What chooses when kernels run says, as a program, which is the best here.
    try_run(ISA_RUN ISA_COMPILED ${CMAKE_BINARY_DIR}/isa ${TFCONV_CC}/common/isa.cc
            CMAKE_FLAGS -DINCLUDE_DIRECTORIES=${TFCONV_CC}
            COMPILE_DEFINITIONS -DTFCONV_ISA_PROGRAM
            RUN_OUTPUT_VARIABLE BEST_ISA)
    if(ISA_RUN EQUAL 0 AND BEST_ISA STREQUAL "base")
      set(ISAS base)
    elseif(ISA_RUN EQUAL 0)
      set(ISAS avx2 ${BEST_ISA})
    endif()
    unset(ISA_RUN CACHE) # the next time it may be another processor
    unset(ISA_COMPILED CACHE)
  endif()
endif()
if(ISAS STREQUAL "all")
  set(ISAS ${KNOWN_ISAS})
endif()
if("avx512bf16" IN_LIST ISAS)
  list(APPEND ISAS avx512) # which has all but its products
endif()
set(TFCONV_KERNELS $<TARGET_OBJECTS:tfconv_isa>)
set(ISA_BITS 0)
set(BIT 1)
foreach(ISA IN LISTS KNOWN_ISAS)
  if(ISA IN_LIST ISAS)
    list(PREPEND TFCONV_KERNELS $<TARGET_OBJECTS:tfconv_kernels_${ISA}>)
    math(EXPR ISA_BITS "${ISA_BITS} + ${BIT}")
  endif()
  math(EXPR BIT "2 * ${BIT}")
endforeach()
list(REMOVE_ITEM ISAS ${KNOWN_ISAS})
if(ISAS OR ISA_BITS EQUAL 0)
  list(JOIN KNOWN_ISAS ", " KNOWN_ISAS)
  message(FATAL_ERROR "TFCONV_ISAS must be all, native or some of ${KNOWN_ISAS}. "
                      "Received: ${TFCONV_ISAS}")
endif()
math(EXPR BIT "${BIT} - 1")
if(NOT ISA_BITS EQUAL BIT) # for what chooses among them
  set(TFCONV_ISA_BITS -DTFCONV_ISA_BITS=${ISA_BITS})
endif()
