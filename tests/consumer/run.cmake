# cmake -DBUILD=<build folder> -DSOURCE=<this folder> -P run.cmake: installs Strata below the build folder, then
# configures, builds and runs the consumer and examples/own_model against the installed files only.
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
set(example "${SOURCE}/../../examples/own_model")
run("configure the example" ${CMAKE_COMMAND} -G Ninja -S ${example} -B ${BUILD}/consumer/own_model
  -DCMAKE_PREFIX_PATH=${prefix} -DCMAKE_BUILD_TYPE=Release)
run("build the example" ${CMAKE_COMMAND} --build ${BUILD}/consumer/own_model)
run("train the example" ${BUILD}/consumer/own_model/own_model train ${example}/run.ini --data.path=${SOURCE}/../../LICENSE
  --run.dir=${BUILD}/consumer/run --plan.tp=1 --model.num_hidden_layers=1 --train.steps=2 --train.batch=2 --sched.warmup=1
  --eval.interval=0)
string(REGEX MATCH "finished at step 2" finished "${output}")
if(NOT finished)
  message(FATAL_ERROR "consumer: the example did not finish:\n${output}")
endif()
