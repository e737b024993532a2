// Errors as tests want them: thrown, of the right kind, and with the words that help.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "metal_candle/error.hpp"

namespace metal_candle::test {

/// The message of the UserError that f throws, which must be of this kind.
template <class F>
std::string error_of(F f, ErrorKind kind) {
  try {
    f();
  } catch (const UserError& e) {
    EXPECT_EQ(static_cast<int>(e.kind()), static_cast<int>(kind)) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

inline void expect_in(const std::string& text, std::initializer_list<const char*> parts) {
  for (const char* part : parts) EXPECT_NE(text.find(part), std::string::npos) << part << " is not in: " << text;
}

}  // namespace metal_candle::test
