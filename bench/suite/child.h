// Measurements that want a process of their own: this program again, which prints one line of JSON.
//
//   child_answer(suite, "load:model.gguf")     runs `bench_suite --threads N --child load:model.gguf`
#pragma once

#include <string>

#include "suite/suite.h"

namespace bench {

/// What the child printed; empty when it failed. What it says on standard error is the user's to see.
std::string child_answer(const Suite& suite, const std::string& work);

/// In the child: does the work and prints its line. False for a work that is not known.
bool run_child(const std::string& work);

/// The works, each in the file of its section; the argument is what follows the colon.
void block_child(const std::string& dtype);
void load_child(const std::string& path);
void training_child(const std::string& dtype);
void demo_child(const std::string& path);

}  // namespace bench
