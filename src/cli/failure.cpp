#include "cli/failure.h"

#include <new>

#include "cli/invocation.h"
#include "metal_candle/error.hpp"

namespace metal_candle::cli {

namespace {

int code_of(const FileError& error) {
  switch (error.fault()) {
    case FileFault::missing: return kNoInput;
    case FileFault::bad: return kBadData;
    case FileFault::create: return kNoOutput;
    case FileFault::transfer: return kTransfer;
  }
  return kBadData;
}

int code_of(const UserError& error) {
  if (const auto* file = dynamic_cast<const FileError*>(&error)) return code_of(*file);
  if (error.kind() == ErrorKind::memory) return kNoMemory;
  return error.kind() == ErrorKind::device ? kNoDevice : kUsage;
}

}  // namespace

Failure failure_of(const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const UsageError& e) {
    return {kUsage, e.what()};
  } catch (const ExitError& e) {
    return {e.code, e.what()};
  } catch (const UserError& e) {
    return {code_of(e), e.what()};
  } catch (const InternalError& e) {
    return {kInternal, e.what()};
  } catch (const std::bad_alloc&) {
    return {kNoMemory, "out of memory"};
  } catch (const std::exception& e) {
    return {kUnexpected, e.what()};
  } catch (...) {
    return {kUnexpected, "something that is no exception was thrown"};
  }
}

}  // namespace metal_candle::cli
