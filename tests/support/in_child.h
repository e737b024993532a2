// What a child of fork can do.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

namespace metal_candle::test {

#if defined(__SANITIZE_THREAD__)
constexpr bool kForks = false;  // ThreadSanitizer starts no threads in a child
#else
constexpr bool kForks = true;
#endif

/// Whether `f`, called in a child, returned true within seconds.
template <class F>
bool in_child(F f) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(30);
    bool good = false;
    try {
      good = f();
    } catch (...) {
    }
    _exit(good ? 0 : 1);
  }
  int status = 0;
  return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace metal_candle::test
