# cmake -DBUILD=<build folder> -DSOURCE=<this folder> -P run.cmake: installs Strata below the build folder, then
# configures, builds and runs the consumer against the installed files only.
set(prefix "${BUILD}/consumer/prefix")
file(REMOVE_RECURSE "${BUILD}/consumer")
function(run what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "consumer: ${what} failed (${result}):\n${output}")
  endif()
  message(STATUS "consumer: ${what}: done")
  set(output "${output}" PARENT_SCOPE)
endfunction()
run("install" ${CMAKE_COMMAND} --install ${BUILD} --prefix ${prefix})
run("configure" ${CMAKE_COMMAND} -G Ninja -S ${SOURCE} -B ${BUILD}/consumer/build -DCMAKE_PREFIX_PATH=${prefix}
  -DCMAKE_BUILD_TYPE=Release)
run("build" ${CMAKE_COMMAND} --build ${BUILD}/consumer/build)
run("run" ${BUILD}/consumer/build/consumer)
message(STATUS "${output}")
