# Finds LibTorch in the torch wheel (or an unpacked libtorch archive) without its own CMake package,
# which pulls CUDA discovery into CPU builds.
#
#   STRATA_TORCH_DIR      folder holding include/ and lib/; default: .deps/python/torch of this tree
#   LibTorch_VERSION      from torch/headeronly/version.h
#   LibTorch_CUDA_FOUND   the GPU libraries that libtorch_cuda.so needs are all there
#   LibTorch_OPENMP_LIBRARY  the OpenMP library that comes with it, if any
#   libtorch::cpu         torch_cpu + c10
#   libtorch::cuda        torch_cuda + c10_cuda on top of it
set(STRATA_TORCH_DIR "${CMAKE_SOURCE_DIR}/.deps/python/torch" CACHE PATH "Folder with LibTorch's include/ and lib/")

find_path(LibTorch_INCLUDE_DIR ATen/core/Tensor.h PATHS "${STRATA_TORCH_DIR}/include" NO_DEFAULT_PATH)
find_library(LibTorch_CPU_LIBRARY torch_cpu PATHS "${STRATA_TORCH_DIR}/lib" NO_DEFAULT_PATH)
find_library(LibTorch_C10_LIBRARY c10 PATHS "${STRATA_TORCH_DIR}/lib" NO_DEFAULT_PATH)
find_library(LibTorch_CUDA_LIBRARY torch_cuda PATHS "${STRATA_TORCH_DIR}/lib" NO_DEFAULT_PATH)
find_library(LibTorch_C10_CUDA_LIBRARY c10_cuda PATHS "${STRATA_TORCH_DIR}/lib" NO_DEFAULT_PATH)
find_file(LibTorch_OPENMP_LIBRARY libgomp.so.1 PATHS "${STRATA_TORCH_DIR}/lib" NO_DEFAULT_PATH)

set(LibTorch_VERSION "")
if(LibTorch_INCLUDE_DIR AND EXISTS "${LibTorch_INCLUDE_DIR}/torch/headeronly/version.h")
  file(STRINGS "${LibTorch_INCLUDE_DIR}/torch/headeronly/version.h" _lines REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
  foreach(_part MAJOR MINOR PATCH)
    string(REGEX REPLACE ".*TORCH_VERSION_${_part} ([0-9]+).*" "\\1" _value "${_lines}")
    list(APPEND _version ${_value})
  endforeach()
  list(JOIN _version "." LibTorch_VERSION)
endif()

# The wheel's CPU library itself loads the small CUDA run-time wheels found beside it.
get_filename_component(_site "${STRATA_TORCH_DIR}" DIRECTORY)
file(GLOB _nvidia_lib_dirs LIST_DIRECTORIES true "${_site}/nvidia/*/lib")
set(LibTorch_LIBRARY_DIRS "${STRATA_TORCH_DIR}/lib" ${_nvidia_lib_dirs})

set(LibTorch_CUDA_FOUND FALSE)
if(LibTorch_CUDA_LIBRARY AND EXISTS "${_site}/nvidia/cudnn/lib" AND EXISTS "${_site}/nvidia/nccl/lib")
  set(LibTorch_CUDA_FOUND TRUE)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_INCLUDE_DIR
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "run tools/setup.sh, or pass -DSTRATA_TORCH_DIR=<folder with include/ and lib/>")

if(LibTorch_FOUND AND NOT TARGET libtorch::cpu)
  add_library(libtorch::cpu INTERFACE IMPORTED)
  target_include_directories(libtorch::cpu SYSTEM INTERFACE "${LibTorch_INCLUDE_DIR}")
  target_link_libraries(libtorch::cpu INTERFACE "${LibTorch_CPU_LIBRARY}" "${LibTorch_C10_LIBRARY}")
  foreach(_dir ${_nvidia_lib_dirs})
    target_link_options(libtorch::cpu INTERFACE "-Wl,-rpath-link,${_dir}")
  endforeach()
endif()
if(LibTorch_CUDA_FOUND AND NOT TARGET libtorch::cuda)
  add_library(libtorch::cuda INTERFACE IMPORTED)
  target_link_libraries(libtorch::cuda INTERFACE libtorch::cpu "-Wl,--no-as-needed,${LibTorch_CUDA_LIBRARY},--as-needed" "${LibTorch_C10_CUDA_LIBRARY}")
endif()
