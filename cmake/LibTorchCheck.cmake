# Links and runs a small program: LibTorch may be found and still not load, because its CPU library itself loads
# others (the wheel's needs libcudart and libcupti even without a GPU) or was built for another C++ ABI.
# strata_check_libtorch(result): sets <result> to "" when it runs, else to what is wrong and what to do.
function(strata_check_libtorch result)
  if(STRATA_LIBTORCH_RUNS AND "${STRATA_LIBTORCH_RUNS}" STREQUAL "${LibTorch_CPU_LIBRARY}")
    set(${result} "" PARENT_SCOPE)
    return()
  endif()
  set(source "${CMAKE_BINARY_DIR}/CMakeFiles/libtorch_check.cpp")
  # Declared here, not included: LibTorch's headers would cost seconds.
  file(WRITE "${source}" [=[
#include <string>
namespace at {
std::string get_parallel_info();
}
int main() { return at::get_parallel_info().empty() ? 1 : 0; }
]=])
  unset(LIBTORCH_CHECK_RUN CACHE)
  unset(LIBTORCH_CHECK_COMPILED CACHE)
  # Missing libraries shall be named by the program loader, not hidden in a list of undefined symbols.
  try_run(LIBTORCH_CHECK_RUN LIBTORCH_CHECK_COMPILED "${CMAKE_BINARY_DIR}/CMakeFiles/libtorch_check" "${source}"
    LINK_OPTIONS "-Wl,--unresolved-symbols=ignore-in-shared-libs"
    LINK_LIBRARIES libtorch::cpu
    CXX_STANDARD 20
    COMPILE_OUTPUT_VARIABLE compile_output
    RUN_OUTPUT_VARIABLE run_output)
  if(NOT LIBTORCH_CHECK_COMPILED)
    set(text "LibTorch in ${STRATA_TORCH_DIR} does not link with this compiler (another C++ ABI?):\n${compile_output}")
  elseif(NOT LIBTORCH_CHECK_RUN STREQUAL "0")
    string(REGEX MATCH "[^ :]+\\.so[.0-9]*: cannot open shared object file" missing "${run_output}")
    if(missing)
      string(REGEX REPLACE ": .*" "" missing "${missing}")
      set(text "LibTorch does not load: ${missing} is missing. Run tools/setup.sh")
    else()
      set(text "LibTorch does not load (result ${LIBTORCH_CHECK_RUN}):\n${run_output}")
    endif()
  else()
    set(text "")
    set(STRATA_LIBTORCH_RUNS "${LibTorch_CPU_LIBRARY}" CACHE INTERNAL "the LibTorch whose check program ran")
  endif()
  unset(LIBTORCH_CHECK_RUN CACHE)
  unset(LIBTORCH_CHECK_COMPILED CACHE)
  string(REPLACE ";" "," text "${text}")
  set(${result} "${text}" PARENT_SCOPE)
endfunction()
