#include "metal_candle/error.hpp"

#include <gtest/gtest.h>

namespace metal_candle {
namespace {

TEST(FileErrors, SayFileFieldExpectedAndGot) {
  const FileError whole(FileFault::bad, "a/config.json", "hidden_size", "a positive integer", "-1");
  EXPECT_STREQ(whole.what(), "a/config.json: hidden_size: expected a positive integer, got -1");
  EXPECT_EQ(whole.kind(), ErrorKind::file);
  EXPECT_EQ(whole.fault(), FileFault::bad);
  EXPECT_EQ(whole.field(), "hidden_size");
  EXPECT_EQ(whole.got(), "-1");
}

TEST(FileErrors, LeaveOutWhatIsNotKnown) {
  EXPECT_STREQ(FileError(FileFault::missing, "x", "", "no such file").what(), "x: no such file");
  EXPECT_STREQ(FileError(FileFault::bad, "x", "", "a JSON object", "a list").what(),
               "x: expected a JSON object, got a list");
  EXPECT_STREQ(FileError(FileFault::bad, "x", "line 3", "", "nothing").what(), "x: line 3: got nothing");
}

}  // namespace
}  // namespace metal_candle
