# strata_library(name DEPS ...): one shared library per top folder; its sources are all .cpp files below the folder
# and, with CUDA, all .cu files.
# Backend twins: of <x>.cpp and no_<x>.cpp (feature switched off) exactly one is compiled. EXCLUDE: patterns of
# further sources that do not belong to the library.
function(strata_library name)
  cmake_parse_arguments(ARG "" "" "DEPS;LINK;EXCLUDE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/${name}/*.cpp")
  foreach(pattern ${STRATA_EXCLUDED_TWINS} ${ARG_EXCLUDE})
    list(FILTER sources EXCLUDE REGEX "${pattern}")
  endforeach()
  if(STRATA_CUDA_FOUND)
    file(GLOB_RECURSE device_sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/${name}/*.cu")
    list(APPEND sources ${device_sources})
  endif()
  add_library(strata_${name} SHARED ${sources})
  add_library(strata::${name} ALIAS strata_${name})
  target_include_directories(strata_${name} PUBLIC
    $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}> $<INSTALL_INTERFACE:include/strata>)
  target_link_libraries(strata_${name} PUBLIC ${ARG_DEPS} PRIVATE ${ARG_LINK} strata_cuda strata_flags)
  set_target_properties(strata_${name} PROPERTIES EXPORT_NAME ${name} UNITY_BUILD ${STRATA_UNITY} UNITY_BUILD_BATCH_SIZE 8)
endfunction()

# strata_tests(folder LINK ...): one GoogleTest executable from tests/<folder>/*_test.cpp.
function(strata_tests folder)
  cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/tests/${folder}/*_test.cpp")
  list(FILTER sources EXCLUDE REGEX "_mpi_test\\.cpp$")
  if(NOT sources)
    return()
  endif()
  add_executable(${folder}_test ${sources})
  target_link_libraries(${folder}_test PRIVATE ${ARG_LINK} test_support GTest::gtest GTest::gtest_main strata_flags)
  set_target_properties(${folder}_test PROPERTIES UNITY_BUILD ${STRATA_UNITY} UNITY_BUILD_BATCH_SIZE 8)
  add_test(NAME ${folder} COMMAND ${folder}_test)
  set_tests_properties(${folder} PROPERTIES LABELS fast TIMEOUT 300 ENVIRONMENT "OMP_NUM_THREADS=1;MKL_CBWR=AUTO" PROCESSORS 1)
endfunction()

# strata_mpi_tests(folder RANKS 1 2 4 LINK ...): one executable from tests/<folder>/*_mpi_test.cpp, run at each rank count.
# A run at another rank count than registered fails; nothing is skipped.
function(strata_mpi_tests folder)
  cmake_parse_arguments(ARG "" "" "LINK;RANKS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/tests/${folder}/*_mpi_test.cpp")
  if(NOT sources OR NOT STRATA_MPI_FOUND)
    return()
  endif()
  add_executable(${folder}_mpi_test ${sources})
  target_link_libraries(${folder}_mpi_test PRIVATE ${ARG_LINK} test_support mpi_main GTest::gtest MPI::MPI_C strata_flags)
  set_target_properties(${folder}_mpi_test PROPERTIES UNITY_BUILD ${STRATA_UNITY} UNITY_BUILD_BATCH_SIZE 8)
  foreach(ranks ${ARG_RANKS})
    add_test(NAME ${folder}_mpi_${ranks}
      COMMAND ${STRATA_MPIRUN} -n ${ranks} --oversubscribe --bind-to none $<TARGET_FILE:${folder}_mpi_test> --ranks=${ranks})
    set_tests_properties(${folder}_mpi_${ranks} PROPERTIES LABELS "fast;mpi" TIMEOUT 900 PROCESSORS 2
      ENVIRONMENT "OMP_NUM_THREADS=1;MKL_CBWR=AUTO;OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMPI_MCA_mpi_yield_when_idle=1;OMPI_MCA_btl_base_warn_component_unused=0")
  endforeach()
endfunction()
