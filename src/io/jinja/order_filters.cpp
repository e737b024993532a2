// Filters that sort, group and compare.
#include <algorithm>

#include "io/jinja/budget.h"
#include "io/jinja/filters.h"
#include "io/jinja/operations.h"
#include "io/jinja/text.h"

namespace metal_candle::jinja {

namespace {

struct Keyed {
  Value key, item;
};

/// Items with what they are compared by. Paths may be several, divided by commas, where `several` says so.
std::vector<Keyed> keyed(const Value& subject, const Value* path, bool case_sensitive, bool several,
                         const Value* fallback = nullptr) {
  auto key_of = [&](const Value& item, const Value& part) {
    const Value key = follow(item, part, fallback);
    return case_sensitive ? key : fold_case(key);
  };
  std::vector<Value> paths;
  if (several && path && path->is_text())
    for (const std::string& part : split_at(path->text(), ",", -1, false)) paths.emplace_back(part);
  else paths.push_back(path ? *path : Value());
  std::vector<Keyed> out;
  for (const Value& item : iterate(subject)) {
    std::vector<Value> keys;
    for (const Value& part : paths) keys.push_back(key_of(item, part));
    out.push_back({several ? Value::list(std::move(keys)) : keys[0], item});
  }
  return out;
}

bool less(const Value& a, const Value& b) { return compare(Comparison::less, a, b); }

void sort(std::vector<Keyed>& items, bool reverse) {
  // By hand: keys of a template need not be ordered consistently (NaN), which std::stable_sort may not be given.
  std::vector<Keyed> spare(items.size());
  auto before = [&](const Keyed& a, const Keyed& b) { return reverse ? less(b.key, a.key) : less(a.key, b.key); };
  for (std::size_t width = 1; width < items.size(); width *= 2) {
    for (std::size_t from = 0; from < items.size(); from += 2 * width) {
      std::size_t a = from, b = std::min(from + width, items.size()), out = from;
      const std::size_t middle = b, end = std::min(from + 2 * width, items.size());
      while (out < end) {
        const bool right = a == middle || (b < end && before(items[b], items[a]));
        spare[out++] = items[right ? b++ : a++];
      }
    }
    items.swap(spare);
  }
}

Value values_of(std::vector<Keyed> items) {
  std::vector<Value> out;
  for (Keyed& one : items) out.push_back(std::move(one.item));
  return Value::list(std::move(out));
}

Value sorted(const Value& subject, const Parameters& p) {
  std::vector<Keyed> items = keyed(subject, p[2], p.flag(1, false), true);
  sort(items, p.flag(0, false));
  return values_of(std::move(items));
}

Value dict_sorted(const Value& subject, const Parameters& p) {
  const std::string by = p.text_or(1, "key");
  if (by != "key" && by != "value") fail(Reason::value, "You can only sort by either \"key\" or \"value\"");
  require_defined(subject);
  if (!subject.is_dict()) fail_type("dictsort wants a dict, not " + type_name(subject));
  std::vector<Keyed> items;
  for (const auto& [key, value] : subject.dict().items()) {
    const Value& of = by == "key" ? key : value;
    items.push_back({p.flag(0, false) ? of : fold_case(of), Value::tuple({key, value})});
  }
  sort(items, p.flag(2, false));
  return values_of(std::move(items));
}

Value unique(const Value& subject, const Parameters& p) {
  Dict seen;
  std::vector<Value> out;
  for (Keyed& one : keyed(subject, p[1], p.flag(0, false), false)) {
    if (seen.find(one.key)) continue;
    seen.set(one.key, true);
    out.push_back(std::move(one.item));
  }
  return Value::generator(std::move(out));
}

template <bool largest>
Value extreme(const Value& subject, const Parameters& p) {
  const std::vector<Keyed> items = keyed(subject, p[1], p.flag(0, false), false);
  if (items.empty()) return Value::undefined("No aggregated item, sequence was empty.");
  const Keyed* best = &items[0];
  for (const Keyed& one : items)
    if (&one != best && (largest ? less(best->key, one.key) : less(one.key, best->key))) best = &one;
  return best->item;
}

Value group(const Value& subject, const Parameters& p) {
  const Value& path = p.required(0);
  const bool case_sensitive = p.flag(2, false);
  std::vector<Keyed> items = keyed(subject, &path, case_sensitive, false, p[1]);
  sort(items, false);
  std::vector<Value> groups;
  for (std::size_t from = 0; from < items.size();) {
    std::vector<Value> members;
    std::size_t to = from;
    while (to < items.size() && equal(items[to].key, items[from].key)) members.push_back(items[to++].item);
    const Value name = case_sensitive ? items[from].key : follow(items[from].item, path, p[1]);
    groups.emplace_back(Sequence{.form = Sequence::Form::group, .items = {name, Value::list(std::move(members))}});
    from = to;
  }
  return Value::list(std::move(groups));
}

constexpr Filter kOrderFilters[] = {
    {"dictsort", dict_sorted, {"case_sensitive", "by", "reverse"}},
    {"groupby", group, {"attribute", "default", "case_sensitive"}},
    {"max", extreme<true>, {"case_sensitive", "attribute"}},
    {"min", extreme<false>, {"case_sensitive", "attribute"}},
    {"sort", sorted, {"reverse", "case_sensitive", "attribute"}},
    {"unique", unique, {"case_sensitive", "attribute"}},
};

}  // namespace

std::span<const Filter> order_filters() { return kOrderFilters; }

}  // namespace metal_candle::jinja
