// TensorBoard's records and the loss curve.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/training/training_support.h"
#include "training/loss_plot.h"
#include "training/tensorboard.h"

namespace metal_candle::training {
namespace {

TEST(Crc32c, IsCastagnolis) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
}

/// Splits a file into the messages of its records; checks lengths and sums.
std::vector<std::string> messages(const std::string& file) {
  std::vector<std::string> all;
  const auto masked = [](std::string_view bytes) {
    const std::uint32_t c = crc32c(bytes);
    return ((c >> 15) | (c << 17)) + 0xa282ead8u;
  };
  for (std::size_t at = 0; at < file.size();) {
    std::uint64_t length = 0;
    std::uint32_t sum = 0;
    std::memcpy(&length, file.data() + at, 8);
    std::memcpy(&sum, file.data() + at + 8, 4);
    EXPECT_EQ(sum, masked(file.substr(at, 8)));
    all.push_back(file.substr(at + 12, length));
    std::memcpy(&sum, file.data() + at + 12 + length, 4);
    EXPECT_EQ(sum, masked(all.back()));
    at += 16 + length;
  }
  return all;
}

TEST(EventWriter, WritesVersionRestartAndScalars) {
  const test::TempFolder folder;
  std::filesystem::path path;
  {
    EventWriter writer(folder.path, 300);
    writer.scalar("train/loss", 301, 0.25f);
    writer.flush();
    path = writer.path();
  }
  EXPECT_THAT(path.filename().string(), testing::StartsWith("events.out.tfevents."));
  const std::vector<std::string> m = messages(test::text_of(path));
  ASSERT_EQ(m.size(), 3u);
  // 9: wall time; then field 2 (step) as a varint.
  EXPECT_EQ(m[0].substr(9), std::string("\x10\x00\x1a\x0d"
                                        "brain.Event:2",
                                        17));
  EXPECT_EQ(m[1].substr(9), std::string("\x10\xad\x02\x3a\x02\x08\x01", 7)) << "session_log {status: START} at 301";
  EXPECT_EQ(m[2].substr(9), std::string("\x10\xad\x02\x2a\x13\x0a\x11\x0a\x0a"
                                        "train/loss"
                                        "\x15\x00\x00\x80\x3e",
                                        24));
}

TEST(EventWriter, TwoInOneSecondDoNotShareAFile) {
  const test::TempFolder folder;
  const EventWriter a(folder.path), b(folder.path);
  EXPECT_NE(a.path(), b.path());
  try {
    EventWriter(folder.path / "nowhere");
    ADD_FAILURE() << "a folder that is not there was written to";
  } catch (const FileError& e) {
    EXPECT_EQ(e.fault(), FileFault::create);
    EXPECT_THAT(e.what(), testing::HasSubstr("cannot be created: No such file or directory"));
  }
}

TEST(LossPlot, DrawsLinesAndDotsAndSurvivesWhatIsNotFinite) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::string svg = loss_plot({{1, 4}, {2, 2}, {3, nan}, {4, 1}}, {{2, 2.5}, {4, nan}}, "A <run> & more");
  EXPECT_THAT(svg, testing::StartsWith("<svg"));
  EXPECT_THAT(svg, testing::EndsWith("</svg>\n"));
  EXPECT_THAT(svg, testing::HasSubstr("A &lt;run> &amp; more"));
  EXPECT_THAT(svg, testing::Not(testing::HasSubstr("nan")));
  std::size_t paths = 0, dots = 0;
  for (std::size_t at = svg.find("stroke-width"); at != std::string::npos; at = svg.find("stroke-width", at + 1))
    ++paths;
  for (std::size_t at = svg.find("<circle"); at != std::string::npos; at = svg.find("<circle", at + 1)) ++dots;
  EXPECT_EQ(paths, 2u) << "a gap where the loss was not finite";
  EXPECT_EQ(dots, 1u);
}

TEST(LossPlot, OfNothingOrOfZerosOrOfALongRun) {
  EXPECT_THAT(loss_plot({}, {}, ""), testing::HasSubstr("</svg>"));
  EXPECT_THAT(loss_plot({{1, 0}}, {}, ""), testing::Not(testing::HasSubstr("inf")));
  std::vector<PlotPoint> many;
  for (int i = 0; i < 200000; ++i) many.push_back({i, 3.0 / (1 + i)});
  EXPECT_LT(loss_plot(many, {}, "").size(), 60000u);
}

}  // namespace
}  // namespace metal_candle::training
