# cmake --install: libraries, headers (include/strata/<folder>/...), the program, and the package that
# find_package(Strata) reads. Strata::strata stands for all libraries; Strata::core and its sisters for one.
include(CMakePackageConfigHelpers)

set(_folders core parallel models optim data launch)
add_library(strata_all INTERFACE)
add_library(Strata::strata ALIAS strata_all)
set_target_properties(strata_all PROPERTIES EXPORT_NAME strata)
target_compile_features(strata_all INTERFACE cxx_std_20)
foreach(_folder ${_folders})
  target_link_libraries(strata_all INTERFACE strata_${_folder})
  target_compile_features(strata_${_folder} PUBLIC cxx_std_20)
  install(TARGETS strata_${_folder} EXPORT Strata LIBRARY DESTINATION lib)
  install(DIRECTORY "${CMAKE_SOURCE_DIR}/${_folder}" DESTINATION include/strata FILES_MATCHING PATTERN "*.h")
endforeach()
install(TARGETS strata_all EXPORT Strata)
if(TARGET strata)
  install(TARGETS strata RUNTIME DESTINATION bin)
endif()

install(EXPORT Strata NAMESPACE Strata:: FILE StrataTargets.cmake DESTINATION lib/cmake/Strata)
configure_package_config_file("${CMAKE_SOURCE_DIR}/cmake/StrataConfig.cmake.in" "${CMAKE_BINARY_DIR}/StrataConfig.cmake"
  INSTALL_DESTINATION lib/cmake/Strata)
# Interfaces may change with every minor version before 1.0.
write_basic_package_version_file("${CMAKE_BINARY_DIR}/StrataConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_BINARY_DIR}/StrataConfig.cmake" "${CMAKE_BINARY_DIR}/StrataConfigVersion.cmake"
  "${CMAKE_SOURCE_DIR}/cmake/FindLibTorch.cmake" DESTINATION lib/cmake/Strata)
install(FILES "${CMAKE_SOURCE_DIR}/LICENSE" "${CMAKE_SOURCE_DIR}/README.md" DESTINATION share/doc/strata)
