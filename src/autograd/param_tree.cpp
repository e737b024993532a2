#include "metal_candle/param_tree.hpp"

#include "metal_candle/error.hpp"

namespace metal_candle {
namespace {

template <class Entries>
auto* find(Entries& entries, std::string_view path) {
  for (auto& entry : entries)
    if (entry.first == path) return &entry;
  return static_cast<decltype(&entries[0])>(nullptr);
}

template <class Entries>
auto& at(Entries& entries, std::string_view path) {
  if (auto* entry = find(entries, path)) return entry->second;
  throw UserError(ErrorKind::argument, "there is no parameter \"" + std::string(path) + "\"");
}

}  // namespace

ParamTree::ParamTree(std::initializer_list<Entry> entries) {
  for (const Entry& entry : entries) insert(entry.first, entry.second);
}

void ParamTree::insert(std::string path, LazyTensor tensor) {
  if (contains(path)) throw UserError(ErrorKind::argument, "there is a parameter \"" + path + "\" already");
  entries_.emplace_back(std::move(path), std::move(tensor));
}

const LazyTensor& ParamTree::operator[](std::string_view path) const { return at(entries_, path); }
LazyTensor& ParamTree::operator[](std::string_view path) { return at(entries_, path); }
bool ParamTree::contains(std::string_view path) const { return find(entries_, path) != nullptr; }

std::vector<LazyTensor> ParamTree::tensors() const {
  std::vector<LazyTensor> result;
  result.reserve(entries_.size());
  for (const Entry& entry : entries_) result.push_back(entry.second);
  return result;
}

ParamTree ParamTree::with(std::vector<LazyTensor> tensors) const {
  if (tensors.size() != entries_.size())
    throw UserError(ErrorKind::argument, "ParamTree::with: " + std::to_string(tensors.size()) + " tensors for " +
                                             std::to_string(entries_.size()) + " paths");
  ParamTree result;
  result.entries_.reserve(entries_.size());
  for (std::size_t i = 0; i < tensors.size(); ++i)
    result.entries_.emplace_back(entries_[i].first, std::move(tensors[i]));
  return result;
}

}  // namespace metal_candle
