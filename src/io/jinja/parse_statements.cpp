// Statements: what stands between {% and %}.
#include <algorithm>

#include "io/jinja/parser.h"
#include "io/jinja/repr.h"

namespace metal_candle::jinja {

Names::Names() {
  for (const char* fixed : {"loop", "caller", "varargs", "kwargs"}) number(fixed);
}

Name Names::number(const std::string& text) {
  const auto [entry, added] = numbers_.try_emplace(text, static_cast<Name>(texts_.size()));
  if (added) texts_.push_back(text);
  return entry->second;
}

Name Names::find(const std::string& text) const {
  const auto entry = numbers_.find(text);
  return entry == numbers_.end() ? -1 : entry->second;
}

void Parser::fail(const Token& where, std::string message) const {
  throw Fault{Reason::syntax, std::move(message), where.line, where.column};
}

bool Parser::skip_name(std::string_view name) { return current().is_name(name) && (take(), true); }
bool Parser::skip_sign(std::string_view sign) { return current().is_sign(sign) && (take(), true); }

void Parser::expect_sign(std::string_view sign) {
  if (skip_sign(sign)) return;
  if (current().kind == Token::Kind::end) fail("unexpected end of template, expected " + in_quotes(sign) + ".");
  fail("expected token " + in_quotes(sign) + ", got " + in_quotes(describe(current())));
}

void Parser::expect_name(std::string_view name) {
  if (!skip_name(name)) fail("expected token " + in_quotes(name) + ", got " + in_quotes(describe(current())));
}

void Parser::expect(Token::Kind kind) {
  if (current().kind != kind)
    fail("expected token " + in_quotes(describe({.kind = kind})) + ", got " + in_quotes(describe(current())));
  take();
}

std::string Parser::expect_identifier() {
  if (current().kind != Token::Kind::name) fail("expected token 'name', got " + in_quotes(describe(current())));
  return take().text;
}

Program Parser::run() {
  Program program;
  program.body = body({});
  if (!unknown_.empty()) throw unknown_[0];
  program.names = std::move(names_);
  return program;
}

Statement Parser::make_statement(Statement::Kind kind, const Token& where) const {
  Statement statement{.kind = kind};
  statement.line = where.line;
  statement.column = where.column;
  return statement;
}

Body Parser::body(std::initializer_list<std::string_view> ends) {
  Body out;
  for (;;) {
    const Token& token = current();
    if (token.kind == Token::Kind::end) {
      if (ends.size() != 0) unknown_tag(token, ends);
      return out;
    }
    take();
    if (token.kind == Token::Kind::data) {
      out.push_back(make_statement(Statement::Kind::data, token));
      out.back().text = token.text;
    } else if (token.kind == Token::Kind::print_begin) {
      Statement print = make_statement(Statement::Kind::print, current());
      print.expressions.push_back(tuple({}));
      expect(Token::Kind::print_end);
      out.push_back(std::move(print));
    } else {
      if (std::any_of(ends.begin(), ends.end(), [&](auto end) { return current().is_name(end); })) return out;
      if (current().kind != Token::Kind::name) fail("tag name expected");
      const Token& tag = current();
      const std::size_t before = out.size();
      statement(out);
      if (out.size() == before) unknown_tag(tag, ends);
      expect(Token::Kind::tag_end);
    }
  }
}

Body Parser::block(std::initializer_list<std::string_view> ends) {
  skip_sign(":");
  expect(Token::Kind::tag_end);
  return body(ends);
}

void Parser::unknown_tag(const Token& tag, std::initializer_list<std::string_view> ends) {
  std::string message = tag.kind == Token::Kind::end ? "Unexpected end of template."
                                                     : "Encountered unknown tag " + in_quotes(tag.text) + ".";
  if (ends.size() != 0) message += " Jinja was looking for the following tags: ";
  for (const auto* end = ends.begin(); end != ends.end(); ++end)
    message += (end == ends.begin() ? "" : " or ") + in_quotes(*end);
  if (ends.size() != 0) message += ".";
  fail(tag, std::move(message));
}

void Parser::statement(Body& out) {
  const Nesting nesting(*this);
  const std::string& tag = current().text;
  if (tag == "if") return out.push_back(branch());
  if (tag == "for") return out.push_back(loop());
  if (tag == "set") return out.push_back(set());
  if (tag == "macro") return out.push_back(macro());
  if (tag == "call") return out.push_back(call_block());
  if (tag == "filter") return out.push_back(filter_block());
  if (tag == "with") return out.push_back(with());
  if (tag == "print") return out.push_back(print());
  if (tag == "generation") return out.push_back(generation());
  if (tag == "block") return out.push_back(named_block());
  if (tag == "break") return out.push_back(loop_control(Statement::Kind::break_));
  if (tag == "continue") return out.push_back(loop_control(Statement::Kind::continue_));
  for (const char* refused : {"include", "import", "from", "extends", "autoescape"})
    if (tag == refused) {
      const Token& where = current();
      throw Fault{Reason::unsupported, "{% " + tag + " %} is not supported in chat templates", where.line,
                  where.column};
    }
}

Statement Parser::branch() {
  Statement out = make_statement(Statement::Kind::branch, take());
  const std::size_t known = unknown_.size();
  for (;;) {
    out.expressions.push_back(tuple({.conditional = false}));
    out.bodies.push_back(block({"elif", "else", "endif"}));
    if (skip_name("elif")) continue;
    if (skip_name("else")) out.bodies.push_back(block({"endif"}));
    take();
    unknown_.erase(unknown_.begin() + static_cast<std::ptrdiff_t>(known), unknown_.end());
    return out;
  }
}

Statement Parser::loop() {
  Statement out = make_statement(Statement::Kind::loop, take());
  out.target = target("in", false);
  expect_name("in");
  out.expressions.push_back(tuple({.conditional = false, .end = "recursive"}));
  out.expressions.push_back(skip_name("if") ? expression() : nullptr);
  out.flag = skip_name("recursive");
  ++loops_;
  out.bodies.push_back(block({"endfor", "else"}));
  --loops_;
  if (skip_name("else")) out.bodies.push_back(block({"endfor"}));
  take();
  return out;
}

Statement Parser::loop_control(Statement::Kind kind) {
  const Token& tag = take();
  if (loops_ == 0) fail(tag, in_quotes(tag.text) + " outside of a loop");
  return make_statement(kind, tag);
}

Name Parser::declared_name() {
  const Token& token = current();
  std::string name = expect_identifier();
  for (const char* constant : {"true", "false", "none", "True", "False", "None"})
    if (name == constant) fail(token, "can't assign to 'name'");
  return names_.number(name);
}

Parser::Node Parser::target_part(bool namespaces) {
  if (skip_sign("(")) {
    Node inner = target({}, namespaces);
    expect_sign(")");
    return inner;
  }
  const Token& where = current();
  if (where.kind != Token::Kind::name) fail("can't assign to " + in_quotes(describe(where)));
  Node node = make(Expression::Kind::target, where);
  node->name = declared_name();
  if (namespaces && skip_sign(".")) node->text = expect_identifier();
  return node;
}

Parser::Node Parser::target(std::string_view end, bool namespaces) {
  const Nesting nesting(*this);
  Node node = make(Expression::Kind::tuple, current());
  bool comma = false;
  while (!tuple_ends(end)) {
    node->parts.push_back(target_part(namespaces));
    if (!skip_sign(",")) break;
    comma = true;
  }
  if (node->parts.empty()) fail("Expected an expression, got " + in_quotes(describe(current())));
  if (!comma) return std::move(node->parts[0]);
  close(*node);
  return node;
}

Statement Parser::set() {
  Statement out = make_statement(Statement::Kind::set, take());
  out.target = target({}, true);
  if (skip_sign("=")) {
    out.expressions.push_back(tuple({}));
    return out;
  }
  out.kind = Statement::Kind::set_block;
  if (current().is_sign("|")) out.filter = filter(nullptr, false);
  out.bodies.push_back(block({"endset"}));
  take();
  return out;
}

void Parser::signature(Signature& out) {
  expect_sign("(");
  while (!current().is_sign(")")) {
    if (!out.parameters.empty()) expect_sign(",");
    const std::string text = current().text;
    out.parameters.emplace_back(declared_name(), text);
    if (skip_sign("=")) out.defaults.push_back(expression());
    else if (!out.defaults.empty()) fail("non-default argument follows default argument");
  }
  expect_sign(")");
}

/// A macro takes whatever arguments it is given if its body speaks of them.
void Parser::watch_names(Signature& out, std::size_t from) const {
  for (std::size_t i = from; i < at_; ++i) {
    out.uses_varargs |= tokens_[i].is_name("varargs");
    out.uses_kwargs |= tokens_[i].is_name("kwargs");
    out.uses_caller |= tokens_[i].is_name("caller");
  }
}

Statement Parser::macro() {
  Statement out = make_statement(Statement::Kind::macro, take());
  out.text = current().text;
  out.name = declared_name();
  signature(out.signature);
  const std::size_t from = at_;
  const int loops = std::exchange(loops_, 0);
  out.bodies.push_back(block({"endmacro"}));
  loops_ = loops;
  watch_names(out.signature, from);
  take();
  return out;
}

Statement Parser::call_block() {
  Statement out = make_statement(Statement::Kind::call_block, take());
  if (current().is_sign("(")) signature(out.signature);
  out.expressions.push_back(expression());
  if (out.expressions[0]->kind != Expression::Kind::call) fail("expected call");
  const std::size_t from = at_;
  const int loops = std::exchange(loops_, 0);
  out.bodies.push_back(block({"endcall"}));
  loops_ = loops;
  watch_names(out.signature, from);
  take();
  return out;
}

Statement Parser::filter_block() {
  Statement out = make_statement(Statement::Kind::filter_block, take());
  out.filter = filter(nullptr, true);
  out.bodies.push_back(block({"endfilter"}));
  take();
  return out;
}

Statement Parser::with() {
  Statement out = make_statement(Statement::Kind::with, take());
  while (current().kind != Token::Kind::tag_end) {
    if (!out.targets.empty()) expect_sign(",");
    out.targets.push_back(target({}, false));
    expect_sign("=");
    out.expressions.push_back(expression());
  }
  out.bodies.push_back(block({"endwith"}));
  take();
  return out;
}

Statement Parser::print() {
  Statement out = make_statement(Statement::Kind::print, take());
  while (current().kind != Token::Kind::tag_end) {
    if (!out.expressions.empty()) expect_sign(",");
    out.expressions.push_back(expression());
  }
  return out;
}

Statement Parser::generation() {
  Statement out = make_statement(Statement::Kind::scope, take());
  out.bodies.push_back(block({"endgeneration"}));
  take();
  return out;
}

Statement Parser::named_block() {
  Statement out = make_statement(Statement::Kind::block, take());
  const Token& where = current();
  out.text = expect_identifier();
  if (std::find(blocks_.begin(), blocks_.end(), out.text) != blocks_.end())
    fail(where, "block " + in_quotes(out.text) + " defined twice");
  blocks_.push_back(out.text);
  out.flag = skip_name("scoped");
  skip_name("required");
  const int loops = std::exchange(loops_, 0);
  out.bodies.push_back(block({"endblock"}));
  loops_ = loops;
  take();
  skip_name(out.text);
  return out;
}

Program parse(std::string_view source) { return Parser(tokenize(source)).run(); }

}  // namespace metal_candle::jinja
