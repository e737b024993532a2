#include "training/run_log.h"

#include <limits>

#include "io/files.h"
#include "metal_candle/error.hpp"

namespace metal_candle::training {
namespace {

constexpr const char* kName = "training_log.jsonl";

double loss_in(const Json& line) {
  const Json& loss = line.at("loss");
  return loss.is_number() ? loss.as_double() : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

RunLog::RunLog(const std::filesystem::path& folder, std::string lines, std::int64_t step)
    : folder_(folder), lines_(std::move(lines)), events_(folder, step) {
  const std::filesystem::path path = folder / kName;
  io::write_file(path, lines_);
  file_.open(path, std::ios::binary | std::ios::app);
  for (std::size_t begin = 0; begin < lines_.size();) {
    const std::size_t end = std::min(lines_.find('\n', begin), lines_.size());
    const Json line = Json::parse(std::string_view(lines_).substr(begin, end - begin), path.string());
    auto& points = line.at("event").as_string() == "eval" ? evaluation_ : training_;
    points.push_back({line.at("step").as_int64(), loss_in(line)});
    begin = end + 1;
  }
}

void RunLog::append(const Json& line) {
  const std::string text = line.dump() + "\n";
  lines_ += text;
  file_ << text << std::flush;
  events_.flush();
  if (!file_) throw FileError(FileFault::transfer, (folder_ / kName).string(), "", "cannot be written");
}

void RunLog::add(const StepEvent& e) {
  training_.push_back({e.step, e.loss});
  events_.scalar("train/loss", e.step, static_cast<float>(e.loss));
  events_.scalar("train/learning_rate", e.step, static_cast<float>(e.learning_rate));
  events_.scalar("train/grad_norm", e.step, static_cast<float>(e.grad_norm));
  events_.scalar("train/tokens_per_s", e.step, static_cast<float>(e.tokens_per_s()));
  append(Json::object({{"event", "step"},
                       {"step", e.step},
                       {"loss", e.loss},
                       {"learning_rate", e.learning_rate},
                       {"grad_norm", e.grad_norm},
                       {"tokens", e.tokens}}));
}

void RunLog::add(const EvalEvent& e) {
  evaluation_.push_back({e.step, e.loss});
  events_.scalar("eval/loss", e.step, static_cast<float>(e.loss));
  append(Json::object({{"event", "eval"}, {"step", e.step}, {"loss", e.loss}, {"tokens", e.tokens}}));
}

void RunLog::draw() const { io::write_file(folder_ / "loss.svg", loss_plot(training_, evaluation_, "Loss")); }

}  // namespace metal_candle::training
