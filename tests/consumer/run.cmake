# Installs the build into a fresh prefix, then configures, builds this folder's programs against it and
# runs those that need no model, and the command.
function(must)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

set(prefix "${work}/prefix")
file(REMOVE_RECURSE "${work}")
must("${CMAKE_COMMAND}" --install "${build}" --prefix "${prefix}")
must("${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}" -B "${work}/build" -G "${generator}"
  -D CMAKE_PREFIX_PATH=${prefix} -D CMAKE_CXX_COMPILER=${compiler} -D CMAKE_BUILD_TYPE=Release)
must("${CMAKE_COMMAND}" --build "${work}/build")
must("${prefix}/bin/metal-candle" --version)
must("${work}/build/consumer")
must("${work}/build/readme_tensors")
