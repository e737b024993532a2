#include "tests/fuzz/targets.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "tests/io/fixture.h"

namespace metal_candle::fuzz {
namespace {

std::string fixture(const char* name) {
  std::ifstream in(std::string(METAL_CANDLE_TESTS_DIR "/fixtures/io/") + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::string> json_seeds() {
  return {
      R"({"a": [1, -2.5e1, true, false, null, "x\u00e9\ud83d\ude00\n"], "b": {}, "c": [], "": 18446744073709551615})",
      R"([[[["deep"]]], {"k": {"k": {"k": 0.1}}}, 1e308, 123456789012345678901234567890, -0])",
      R"({"weight_map": {"a": "model-00001-of-00002.safetensors"}, "metadata": {"total_size": 8}})",
  };
}

std::vector<std::string> safetensors_seeds() {
  std::vector<std::string> out;
  const Json cases = io_fixture("safetensors_cases.json");
  for (const Json& c : cases.elements())
    if (c.at("reference").as_bool()) out.push_back(from_hex(c.at("hex").as_string()));
  const Json written = io_fixture("safetensors_written.json");
  for (const JsonMember& m : written.items()) out.push_back(from_hex(m.value.as_string()));
  return out;
}

std::vector<std::string> gguf_seeds() { return {fixture("small.gguf")}; }

/// Few tokens, and every component.
std::vector<std::string> tokenizer_seeds() {
  return {
      R"({"version":"1.0","added_tokens":[{"id":9,"content":"<s>","single_word":false,"lstrip":true,"rstrip":true,)"
      R"("normalized":false,"special":true}],"normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},)"
      R"({"type":"Replace","pattern":{"Regex":"a+"},"content":"b"}]},"pre_tokenizer":{"type":"Sequence","pretokenizers":[)"
      R"({"type":"Split","pattern":{"Regex":"\\p{N}{1,3}|[^\\s]+?"},"behavior":"Isolated","invert":false},)"
      R"({"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}]},"post_processor":)"
      R"({"type":"RobertaProcessing","sep":["b",1],"cls":["a",0],"trim_offsets":true,"add_prefix_space":true},)"
      R"("decoder":{"type":"ByteLevel"},"model":{"type":"BPE","unk_token":"a","fuse_unk":true,"ignore_merges":true,)"
      R"("vocab":{"a":0,"b":1,"ab":2,"e":3,"l":4,"ll":5,"\u0120":6},"merges":["a b",["l","l"]]}})",
      R"({"added_tokens":[],"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,)"
      R"("strip_accents":null,"lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},"post_processor":)"
      R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"c","type_id":0}},{"Sequence":{"id":"A",)"
      R"("type_id":0}}],"pair":[],"special_tokens":{"c":{"id":"c","ids":[2],"tokens":["c"]}}},"decoder":)"
      R"({"type":"WordPiece","prefix":"##","cleanup":true},"model":{"type":"WordPiece","unk_token":"[U]",)"
      R"("continuing_subword_prefix":"##","max_input_chars_per_word":50,"vocab":{"[U]":0,"a":1,"##a":2,"h":3,"##e":4}}})",
      R"({"normalizer":{"type":"Sequence","normalizers":[{"type":"Nmt"},{"type":"Precompiled","precompiled_charsmap":)"
      R"("CAAAAAEAAAACAAAAYQBiAA=="},{"type":"Strip","strip_left":true,"strip_right":false},{"type":"NFKD"},)"
      R"({"type":"StripAccents"},{"type":"Prepend","prepend":"_"}]},"pre_tokenizer":{"type":"Sequence","pretokenizers":[)"
      R"({"type":"Metaspace","replacement":"_","prepend_scheme":"first","split":true},{"type":"Digits",)"
      R"("individual_digits":false},{"type":"Punctuation","behavior":"MergedWithNext"},{"type":"FixedLength","length":3}]},)"
      R"("decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"_"},"content":" "},)"
      R"({"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":1}]},"model":)"
      R"({"type":"Unigram","unk_id":0,"byte_fallback":true,"vocab":[["u",0],["_",-1],["a",-2.5],["<0x41>",-3],["aa",-3]]}})",
  };
}

std::vector<std::string> jinja_seeds() {
  return {
      "{% for m in messages if m.role != 'x' -%}\n{{ loop.index ~ m['content'] | tojson }}{% else %}-{% endfor %}",
      "{% macro f(a, b=2) %}{{ caller(a) if caller else varargs }}{% endmacro %}{% call(q) f(1) %}{{ q }}{% endcall %}",
      "{% set ns = namespace(x=[1, 2.5e1, {'k': none}]) %}{% set ns.x = ns.x[::-1] %}{{ '%5s|%-3d' % (ns.x, n) }}",
      "{%- if n is divisibleby(3) and 'a' in text %}{{ text.split()[1:] | map('upper') }}{% elif n %}x{% endif -%}",
      "{% macro r(x) %}{% if x %}{{ r(x - 1) }}{% endif %}{% endmacro %}{{ r(n) }}{# c #}{% raw %}{{ }}{% endraw %}",
      "{{ '{:>{w}}{0!r}'.format(text, w=9) }}{% filter upper %}{{ tools[0].function | dictsort }}{% endfilter %}",
      "{% set x %}a{% endset %}{% with y = x * 3 %}{{ y | replace('a', x) | truncate(5, true, '', 0) }}{% endwith %}",
  };
}

std::vector<std::string> config_seeds() {
  return {
      R"({"model_type":"llama","vocab_size":32,"hidden_size":24,"intermediate_size":40,"num_hidden_layers":3,
        "num_attention_heads":4,"num_key_value_heads":2,"head_dim":6,"rms_norm_eps":1e-5,"rope_theta":10000.0,
        "rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
        "original_max_position_embeddings":16},"max_position_embeddings":64,"tie_word_embeddings":true,
        "attention_bias":true,"mlp_bias":false,"eos_token_id":[2,3],"bos_token_id":1,"torch_dtype":"bfloat16"})",
      R"({"model_type":"mistral","vocab_size":32,"hidden_size":24,"intermediate_size":40,"num_hidden_layers":2,
        "num_attention_heads":4,"sliding_window":8,"rope_parameters":{"rope_type":"linear","factor":2.0,"rope_theta":5000.0},"dtype":"float32"})",
      R"({"model_type":"qwen2","vocab_size":32,"hidden_size":24,"intermediate_size":40,"num_hidden_layers":4,
        "num_attention_heads":4,"use_sliding_window":true,"sliding_window":8,"max_window_layers":2,
        "rope_scaling":{"type":"dynamic","factor":4}})",
      R"({"model_type":"gemma2","vocab_size":32,"hidden_size":24,"intermediate_size":40,"num_hidden_layers":2,
        "num_attention_heads":4,"num_key_value_heads":2,"head_dim":8,"query_pre_attn_scalar":8,
        "attn_logit_softcapping":50.0,"final_logit_softcapping":30.0,"layer_types":["sliding_attention","full_attention"]})",
      R"({"peft_type":"LORA","r":4,"lora_alpha":8,"lora_dropout":0.1,"bias":"none","use_rslora":true,
        "target_modules":["q_proj","v_proj"],"rank_pattern":{"q_proj":2},"alpha_pattern":{"v_proj":3},
        "modules_to_save":["lm_head"],"layers_to_transform":[0,1],"exclude_modules":"x","base_model_name_or_path":"m"})",
      R"({"peft_type":"LORA","r":2,"lora_alpha":2,"target_modules":"all-linear","task_type":"CAUSAL_LM"})",
  };
}

std::vector<std::string> jsonl_seeds() {
  return {
      "{\"text\": \"ab\"}\n\n{\"text\": \"a\\u00e9\"}\r\n",
      "\xef\xbb\xbf{\"prompt\": \"a\", \"completion\": \"b<e>\"}\n",
      R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": [{"x": 1}]})",
      R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}, {"role": "assistant", "content": "b"}]})",
  };
}

}  // namespace

const std::vector<Target>& targets() {
  static const std::vector<Target> all = {
      {"json",
       json,
       json_seeds,
       {"\\u", "\\ud800", "\"\"", "[[", "{\"", "e999", "-", "null", "\xef\xbb\xbf", "\xed\xa0\x80"}},
      {"safetensors",
       safetensors,
       safetensors_seeds,
       {"__metadata__", "dtype", "shape", "data_offsets", "BF16", "4294967296", "18446744073709551615", "F4", "[",
        "0,"}},
      {"tokenizer",
       tokenizer,
       tokenizer_seeds,
       {"\"type\":", "null", "\"Regex\":", "(?i:", "{1,9}+", "[^\\\\s", "\\\\p{L}", "Sequence", "CTC", "NFKC",
        "Whitespace", "65536", "-1", "\"special\":true", "\"invert\":true", "WordLevel", "BPEDecoder",
        "MergedWithPrevious", "\u2581"}},
      {"jinja", jinja, jinja_seeds, {"{{",   "}}",        "{%",     "-%}",        "{#",          "loop.", "| ",
                                     " is ", " if ",      " else ", "range(9",    "namespace(",  "**",    "//",
                                     "['",   "recursive", "endfor", "generation", "99999999999", "\xc3"}},
      {"gguf", gguf, gguf_seeds, {"GGUF", "general.alignment", "split.count"}},
      {"config",
       config,
       config_seeds,
       {"-1", "0", "null", "9223372036854775807", "1e308", "NaN", "[]", "{}", "\"x\"", "2.5", "true", "\"(\"",
        "\"yarn\"", "\"model_type\":\"qwen3\","}},
      {"jsonl",
       jsonl,
       jsonl_seeds,
       {"\n", "\r\n", "{\"text\": \"\"}", "\"role\": \"assistant\"", "null", "[]", "\\ud800", "<e>",
        "\"content\": ", "{}"}},
  };
  return all;
}

void must(bool truth, const char* what) {
  if (truth) return;
  std::fprintf(stderr, "not true: %s\n", what);
  std::abort();
}

}  // namespace metal_candle::fuzz
