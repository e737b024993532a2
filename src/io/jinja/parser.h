// Recursive descent over the tokens of a template.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "io/jinja/ast.h"
#include "io/jinja/lexer.h"

namespace metal_candle::jinja {

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  Program run();

 private:
  // ---- tokens ----
  const Token& current() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  const Token& take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool skip_name(std::string_view name);
  bool skip_sign(std::string_view sign);
  void expect_sign(std::string_view sign);
  void expect_name(std::string_view name);
  void expect(Token::Kind kind);
  std::string expect_identifier();
  [[noreturn]] void fail(std::string message) const { fail(current(), std::move(message)); }
  [[noreturn]] void fail(const Token& where, std::string message) const;

  // ---- expressions ----
  using Node = ExpressionPointer;
  struct TupleStyle {
    bool conditional = true;     // `a if b` may stand in it
    bool parenthesised = false;  // () is a tuple
    std::string_view end = {};   // a name that ends it
  };
  Node make(Expression::Kind kind, const Token& where);
  Node make(Expression::Kind kind, const Token& where, std::initializer_list<Node*> parts);
  /// Its depth from those of its parts, checked.
  void close(Expression& node) const;
  Node expression(bool conditional = true);
  Node conditional();
  Node logical_or();
  Node logical_and();
  Node logical_not();
  Node comparison();
  bool comparison_sign(Comparison& which);
  Node sum();
  Node concat();
  Node product();
  Node power();
  Node unary(bool with_filters = true);
  Node primary();
  Node text();
  Node list();
  Node dict();
  Node tuple(TupleStyle style);
  Node postfix(Node node);
  Node filters(Node node);
  Node member(Node node);
  Node subscript(Node node);
  Node subscript_part(const Token& bracket, Node& subject);
  Node call(Node node);
  Node filter(Node node, bool first);
  Node test(Node node);
  void unknown(const Token& where, std::string message) {
    unknown_.push_back({Reason::syntax, std::move(message), where.line, where.column});
  }
  Arguments arguments();
  void argument(Arguments& out, const Token& open);
  bool tuple_ends(std::string_view end) const;
  Node binary(Operator op, Node left, Node right, const Token& where);

  // ---- statements ----
  Body body(std::initializer_list<std::string_view> ends);
  Body block(std::initializer_list<std::string_view> ends);  // the tag's end, then a body
  void statement(Body& out);
  Statement make_statement(Statement::Kind kind, const Token& where) const;
  Statement branch();
  Statement loop();
  Statement set();
  Statement macro();
  Statement call_block();
  Statement filter_block();
  Statement with();
  Statement print();
  Statement generation();
  Statement named_block();
  Statement loop_control(Statement::Kind kind);
  [[noreturn]] void unknown_tag(const Token& tag, std::initializer_list<std::string_view> ends);
  void signature(Signature& out);
  void watch_names(Signature& out, std::size_t from) const;
  Node target(std::string_view end, bool namespaces);
  Node target_part(bool namespaces);
  Name declared_name();

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  Names names_;
  int nesting_ = 0, loops_ = 0;
  std::vector<std::string> blocks_;
  /// Filters and tests that do not exist, but for those in branches.
  std::vector<Fault> unknown_;
  friend class Nesting;
};

/// Counts how deep the parser stands in itself.
class Nesting {
 public:
  explicit Nesting(Parser& parser);
  ~Nesting() { --parser_.nesting_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;

 private:
  Parser& parser_;
};

}  // namespace metal_candle::jinja
