#include "launch/failure.h"

#include <c10/util/Exception.h>

#include <new>
#include <vector>

#include "core/text.h"
#include "parallel/comm/communicator.h"

namespace strata {

Failure describe(const std::exception_ptr& error) {
  constexpr int kInternal = 1, kMemory = 5;
  try {
    std::rethrow_exception(error);
  } catch (const Error& e) {
    return {e.exit_code(), e.what()};
  } catch (const c10::OutOfMemoryError& e) {
    return {kMemory, cat("Out of memory: ", e.what_without_backtrace())};
  } catch (const c10::Error& e) {
    const std::string text = e.what_without_backtrace();
    const bool memory = text.find("can't allocate memory") != std::string::npos;
    return {memory ? kMemory : kInternal, cat(memory ? "Out of memory: " : "LibTorch: ", text)};
  } catch (const std::bad_alloc&) {
    return {kMemory,
            "Out of memory. Try a smaller train.batch, more plan.microbatches, plan.recompute = "
            "full, or more ranks."};
  } catch (const std::exception& e) {
    return {kInternal, cat("Internal error: ", e.what())};
  } catch (...) {
    return {kInternal, "Internal error of unknown type."};
  }
}

void together(Communicator& job, const std::function<void()>& work) {
  Failure mine;
  try {
    work();
  } catch (...) {
    mine = describe(std::current_exception());
  }
  std::vector<int> failed;
  Failure first;
  const std::vector<std::string> all = job.all_gather_bytes(cat(mine.code, '\n', mine.message));
  for (size_t rank = 0; rank < all.size(); ++rank) {
    const size_t line = all[rank].find('\n');
    const int code = std::stoi(all[rank].substr(0, line));
    if (code == 0) continue;
    if (failed.empty()) first = {code, all[rank].substr(line + 1)};
    failed.push_back(static_cast<int>(rank));
  }
  if (failed.empty()) return;
  // Named only where it says something: a failure of every rank is nobody's in particular.
  const bool everywhere = failed.size() == all.size();
  throw AgreedError(first.code,
                    everywhere ? first.message : cat("rank ", failed[0], ": ", first.message));
}

}  // namespace strata
