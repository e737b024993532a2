// Functions that are there without being given.
#include "io/jinja/globals.h"

#include <algorithm>

#include "io/jinja/budget.h"
#include "io/jinja/operations.h"
#include "io/jinja/repr.h"

namespace metal_candle::jinja {

std::optional<Value> Namespace::attribute(std::string_view name) const {
  const Value* found = members.find(name);
  return found ? std::optional(*found) : std::nullopt;
}

std::string Namespace::repr() const { return "<Namespace " + jinja::repr(Value(members)) + ">"; }

void Namespace::set(const std::string& name, Value value) {
  if (name.starts_with('_'))
    fail(Reason::security, "a namespace keeps nothing under a name that begins with an underscore: " + in_quotes(name));
  members.set(Value(name), std::move(value));
}

namespace {

struct Function : Object {
  Function(std::string name_, std::function<Value(const Call&)> run_) : name(std::move(name_)), run(std::move(run_)) {}
  std::string type() const override { return "function"; }
  bool callable() const override { return true; }
  Value call(const Call& call) override { return run(call); }
  std::string repr() const override { return "<function " + name + ">"; }

  std::string name;
  std::function<Value(const Call&)> run;
};

void fill(Dict& dict, const Call& call) {
  if (call.positional.size() > 1)
    fail_type("dict expected at most 1 argument, got " + std::to_string(call.positional.size()));
  for (const Value& from : call.positional) {
    if (from.is_dict()) {
      spend(from.dict().size());
      for (const auto& [key, value] : from.dict().items()) dict.set(key, value);
      continue;
    }
    for (const Value& pair : iterate(from)) {
      const std::vector<Value> both = iterate(pair);
      if (both.size() != 2) fail(Reason::value, "a dict is made of pairs");
      dict.set(both[0], both[1]);
    }
  }
  for (const auto& [name, value] : call.named) dict.set(Value(name), value);
}

Value make_dict(const Call& call) {
  Dict dict;
  fill(dict, call);
  return dict;
}

Value make_range(const Call& call) {
  constexpr std::int64_t kMost = 100'000;  // as the sandbox has it
  if (call.positional.empty() || call.positional.size() > 3 || !call.named.empty())
    fail_type("range expected 1 to 3 arguments, got " + std::to_string(call.positional.size()));
  std::int64_t numbers[3] = {0, 0, 1};
  for (std::size_t i = 0; i < call.positional.size(); ++i)
    numbers[i] = to_int(call.positional[i], "range()'s argument");
  if (call.positional.size() == 1) std::swap(numbers[0], numbers[1]);
  const auto [start, stop, step] = numbers;
  if (step == 0) fail(Reason::value, "range() arg 3 must not be zero");
  const bool empty = step > 0 ? start >= stop : start <= stop;
  const auto span =
      static_cast<std::uint64_t>(step > 0 ? stop : start) - static_cast<std::uint64_t>(step > 0 ? start : stop);
  const std::uint64_t stride = step > 0 ? static_cast<std::uint64_t>(step) : 0 - static_cast<std::uint64_t>(step);
  const std::uint64_t count = empty ? 0 : (span - 1) / stride + 1;
  if (count > kMost) fail(Reason::limit, "Range too big. The sandbox blocks ranges larger than 100000.");
  spend(count);
  Sequence range{.form = Sequence::Form::range};
  for (std::uint64_t i = 0; i < count; ++i) range.items.emplace_back(start + static_cast<std::int64_t>(i) * step);
  range.note = "range(" + std::to_string(start) + ", " + std::to_string(stop) +
               (step == 1 ? "" : ", " + std::to_string(step)) + ")";
  return range;
}

struct Cycler : Object {
  explicit Cycler(std::vector<Value> items_) : items(std::move(items_)) {}
  std::string type() const override { return "Cycler"; }
  std::optional<Value> attribute(std::string_view name) const override {
    auto* self = const_cast<Cycler*>(this);  // kept as long as the template runs
    if (name == "current") return items[at];
    if (name == "next") return function("next", [self](const Call&) { return self->next(); });
    if (name == "reset") return function("reset", [self](const Call&) { return self->at = 0, Value(); });
    return std::nullopt;
  }
  Value next() {
    const Value value = items[at];
    at = (at + 1) % items.size();
    return value;
  }
  void release() override { items.assign(1, Value()), at = 0; }

  std::vector<Value> items;
  std::size_t at = 0;
};

struct Joiner : Object {
  explicit Joiner(Value separator_) : separator(std::move(separator_)) {}
  std::string type() const override { return "Joiner"; }
  bool callable() const override { return true; }
  Value call(const Call&) override { return std::exchange(used, true) ? separator : Value(""); }
  void release() override { separator = Value(); }

  Value separator;
  bool used = false;
};

template <class T>
Value kept(Keep& keep, std::shared_ptr<T> object) {
  keep.push_back(object);
  return Value(std::shared_ptr<Object>(std::move(object)));
}

Value make_namespace(const Call& call, Keep& keep) {
  Dict members;
  fill(members, call);
  auto space = std::make_shared<Namespace>();
  const Value value = kept(keep, space);
  for (const auto& [key, member] : members.items()) space->set(to_text(key), member);
  return value;
}

Value make_cycler(const Call& call, Keep& keep) {
  if (call.positional.empty()) fail_type("at least one item has to be provided");
  return kept(keep, std::make_shared<Cycler>(call.positional));
}

Value make_joiner(const Call& call, Keep& keep) {
  constexpr const char* kNames[] = {"sep"};
  const Parameters p("joiner", kNames, call);
  return kept(keep, std::make_shared<Joiner>(p.has(0) ? *p[0] : Value(", ")));
}

[[noreturn]] Value raise(const Call& call) {
  constexpr const char* kNames[] = {"message"};
  fail(Reason::raised, to_text(Parameters("raise_exception", kNames, call).required(0)));
}

Value format_time(const Call& call, const std::tm& now) {
  constexpr const char* kNames[] = {"format"};
  const std::string& format = Parameters("strftime_now", kNames, call).text(0);
  if (format.empty()) return "";
  constexpr std::size_t kMost = 4096;
  if (format.size() > kMost / 16) fail(Reason::limit, "strftime_now: the format is too long");
  char text[kMost];
  return std::string(text, std::strftime(text, sizeof text, format.c_str(), &now));
}

}  // namespace

Value function(std::string name, std::function<Value(const Call&)> run) {
  return Value(std::shared_ptr<Object>(std::make_shared<Function>(std::move(name), std::move(run))));
}

std::vector<std::pair<std::string, Value>> make_globals(const std::tm& now, Keep& keep) {
  Keep* const kept_ones = &keep;
  return {
      {"range", function("range", make_range)},
      {"dict", function("dict", make_dict)},
      {"namespace", function("namespace", [kept_ones](const Call& c) { return make_namespace(c, *kept_ones); })},
      {"cycler", function("cycler", [kept_ones](const Call& c) { return make_cycler(c, *kept_ones); })},
      {"joiner", function("joiner", [kept_ones](const Call& c) { return make_joiner(c, *kept_ones); })},
      {"raise_exception", function("raise_exception", raise)},
      {"strftime_now", function("strftime_now", [now](const Call& c) { return format_time(c, now); })},
  };
}

}  // namespace metal_candle::jinja
