#include "io/files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>

#include "metal_candle/error.hpp"
#include "tests/io/temp_folder.h"

namespace metal_candle::io {
namespace {

FileFault fault_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const FileError& e) {
    EXPECT_NE(e.file(), "");
    return e.fault();
  }
  ADD_FAILURE() << "nothing was thrown";
  return FileFault::bad;
}

TEST(MappedFile, GivesTheBytesAndRefusesTheRest) {
  const TempFolder folder;
  const auto file = MappedFile::open(folder.write("a", "hello"));
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()), "hello");
  file->will_need(2, 100);
  file->will_need(200, 1);
  EXPECT_TRUE(MappedFile::open(folder.write("empty", ""))->bytes().empty());
  EXPECT_EQ(fault_of([&] { MappedFile::open(folder / "none"); }), FileFault::missing);
  EXPECT_EQ(fault_of([&] { MappedFile::open(folder.path()); }), FileFault::bad);
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(fault_of([&] { MappedFile::open(folder / "pipe"); }), FileFault::bad);
}

TEST(AtomicFile, WritesWholeOrNotAtAll) {
  const TempFolder folder;
  folder.write("a", "old");
  chmod((folder / "a").c_str(), 0640);
  {
    AtomicFile file(folder / "a");
    file.write("new");
    EXPECT_EQ(folder.read("a"), "old");
  }
  EXPECT_EQ(folder.read("a"), "old");
  EXPECT_EQ(folder.entries(), 1);
  write_file(folder / "a", "new");
  EXPECT_EQ(folder.read("a"), "new");
  EXPECT_EQ(folder.entries(), 1);
  struct stat info;
  ASSERT_EQ(stat((folder / "a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640u);
  EXPECT_EQ(fault_of([&] { write_file(folder / "no/such/a", "x"); }), FileFault::create);
  std::filesystem::create_directory(folder / "d");
  EXPECT_EQ(fault_of([&] { write_file(folder / "d", "x"); }), FileFault::create);
  EXPECT_EQ(folder.entries(), 2);
}

TEST(AtomicFile, InterruptedAndShortWritesAreNoFailures) {
  const TempFolder folder;
  const std::string text(10'001, 'x');
  for (int nth = 1; nth <= 6; ++nth) {
    for (const auto& [kind, error] :
         {std::pair{WriteFaults::Kind::error, EINTR}, {WriteFaults::Kind::short_write, 0}}) {
      const WriteFaults faults(nth, kind, error);
      write_file(folder / "a", text);
      EXPECT_EQ(folder.read("a"), text);
      EXPECT_GE(faults.calls(), 6 - 1);
    }
  }
}

/// Makes each call of `save` fail in turn. `check` looks whether the old or the new is there, and puts the old back.
void fail_every_call(const std::function<void()>& save, const std::function<void(bool after_rename)>& check,
                     int calls_after_rename) {
  for (const int error : {ENOSPC, EIO, EACCES}) {
    int calls = 0;
    {
      const WriteFaults count(0, WriteFaults::Kind::error);
      save();
      calls = count.calls();
    }
    ASSERT_GE(calls, 5);
    check(true);
    for (int nth = 1; nth <= calls; ++nth) {
      const WriteFaults faults(nth, WriteFaults::Kind::error, error);
      const FileFault fault = fault_of(save);
      EXPECT_TRUE(fault == FileFault::create || fault == FileFault::transfer);
      EXPECT_EQ(faults.calls(), nth);
      check(nth > calls - calls_after_rename);
    }
  }
}

TEST(AtomicFile, EveryFailingCallLeavesTheOldFile) {
  const TempFolder folder;
  const auto save = [&] {
    AtomicFile file(folder / "a");
    file.write("ne"), file.write("w");
    file.commit();
  };
  fail_every_call(
      save,
      [&](bool replaced) {
        EXPECT_EQ(folder.read("a"), replaced ? "new" : "old");
        EXPECT_EQ(folder.entries(), 1);
        folder.write("a", "old");
      },
      1);
}

TEST(AtomicFile, AFullDiskIsATransferError) {
  const TempFolder folder;
  const WriteFaults faults(2, WriteFaults::Kind::error, ENOSPC);
  EXPECT_EQ(fault_of([&] { write_file(folder / "a", "x"); }), FileFault::transfer);
}

TEST(AtomicFile, AKilledWriterLeavesOldOrNew) {
  const TempFolder folder;
  int ends = 0;
  for (int nth = 1; ends == 0; ++nth) {
    folder.write("a", "old");
    const pid_t child = fork();
    if (child == 0) {
      const WriteFaults faults(nth, WriteFaults::Kind::die);
      write_file(folder / "a", "new");
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    const bool killed = WEXITSTATUS(status) == 137;
    EXPECT_TRUE(killed || WEXITSTATUS(status) == 0);
    ends += killed ? 0 : 1;
    const std::string now = folder.read("a");
    EXPECT_TRUE(now == "new" || (killed && now == "old")) << now;
  }
}

/// Runs `write` in a process that dies at its n-th call; false: it came to its end.
bool dies_at(int nth, const std::function<void()>& write) {
  const pid_t child = fork();
  if (child == 0) {
    const WriteFaults faults(nth, WriteFaults::Kind::die);
    write();
    _exit(0);
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  return WEXITSTATUS(status) == 137;
}

TEST(AtomicFile, TheNextWriterRemovesWhatAKilledOneLeft) {
  const TempFolder folder;
  int left = 0;
  for (int nth = 1; dies_at(nth, [&] { write_file(folder / "a", "new"); }); ++nth) {
    left = std::max(left, folder.entries() - static_cast<int>(std::filesystem::exists(folder / "a")));
    write_file(folder / "a", "next");
    EXPECT_EQ(folder.read("a"), "next");
    EXPECT_EQ(folder.entries(), 1) << "killed at call " << nth;
  }
  EXPECT_EQ(left, 1);
}

TEST(AtomicFile, LeavesWhatIsNotADeadWriters) {
  const TempFolder folder;
  for (const char* name : {"b.tmp-1-1", "a.tmp-1-1x", "a.tmp-1", "a.tmp--1", "a.tmp-x-1", "a.tmp-1-"})
    folder.write(name, "somebody's");
  std::filesystem::create_symlink("b.tmp-1-1", folder / "a.tmp-3-1");
  ASSERT_EQ(mkfifo((folder / "a.tmp-4-1").c_str(), 0600), 0);
  AtomicFile first(folder / "a");
  first.write("first");
  write_file(folder / "a", "second");
  EXPECT_EQ(folder.read("a"), "second");
  EXPECT_EQ(folder.entries(), 8 + 2);
  first.commit();
  EXPECT_EQ(folder.read("a"), "first");
  EXPECT_EQ(folder.entries(), 8 + 1);
  folder.write("a.tmp-1-1", "a dead writer's");
  write_file(folder / "a", "third");
  EXPECT_EQ(folder.entries(), 8 + 1);
}

TEST(AtomicFolder, TheNextWriterRemovesWhatAKilledOneLeft) {
  const TempFolder folder;
  const auto save = [&](const char* text) {
    AtomicFolder out(folder / "d/", AtomicFolder::Existing::replace);
    write_file(out.path() / "a", text);
    out.commit();
  };
  save("old");
  int left = 0;
  for (int nth = 1; dies_at(nth, [&] { save("new"); }); ++nth) {
    left = std::max(left, folder.entries() - 1);
    AtomicFolder alive(folder / "d", AtomicFolder::Existing::replace);
    write_file(alive.path() / "a", "late");
    save("next");
    EXPECT_EQ(folder.read("d/a"), "next");
    EXPECT_EQ(folder.entries(), 2) << "killed at call " << nth;
    alive.commit();
    EXPECT_EQ(folder.read("d/a"), "late");
    EXPECT_EQ(folder.entries(), 1);
  }
  EXPECT_EQ(left, 1);
}

TEST(AtomicFolder, AppearsWhole) {
  const TempFolder folder;
  {
    AtomicFolder out(folder / "step-1/");
    write_file(out.path() / "a", "1");
    std::filesystem::create_directory(out.path() / "sub");
    write_file(out.path() / "sub/b", "2");
    EXPECT_FALSE(std::filesystem::exists(folder / "step-1"));
    out.commit();
  }
  EXPECT_EQ(folder.read("step-1/a"), "1");
  EXPECT_EQ(folder.read("step-1/sub/b"), "2");
  EXPECT_EQ(folder.entries(), 1);
  {
    AtomicFolder abandoned(folder / "step-2");
    write_file(abandoned.path() / "a", "1");
  }
  EXPECT_EQ(folder.entries(), 1);
  EXPECT_EQ(fault_of([&] { AtomicFolder again(folder / "step-1"); }), FileFault::create);
  EXPECT_EQ(fault_of([&] { AtomicFolder nowhere(folder / "no/such/folder"); }), FileFault::create);
  folder.write("file", "x");
  EXPECT_EQ(fault_of([&] { AtomicFolder file(folder / "file", AtomicFolder::Existing::replace); }), FileFault::create);
}

TEST(AtomicFolder, FillsAnEmptyOneThatIsThere) {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "empty");
  std::filesystem::create_directory_symlink(folder / "empty", folder / "link");
  struct stat before, after;
  ASSERT_EQ(::stat((folder / "empty").c_str(), &before), 0);
  {
    AtomicFolder out(folder / "link");
    write_file(out.path() / "a", "1");
    std::filesystem::create_directory(out.path() / "sub");
    write_file(out.path() / "sub/b", "2");
    EXPECT_EQ(fault_of([&] { AtomicFolder late(folder / "empty"); }), FileFault::create) << "somebody writes there";
    out.commit();
  }
  ASSERT_EQ(::stat((folder / "empty").c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino) << "a mount, or where a shell stands";
  EXPECT_EQ(folder.read("empty/a"), "1");
  EXPECT_EQ(folder.read("link/sub/b"), "2");
  const auto names = [&] { return std::distance(std::filesystem::directory_iterator(folder / "empty"), {}); };
  EXPECT_EQ(names(), 2);
  EXPECT_EQ(fault_of([&] { AtomicFolder again(folder / "empty"); }), FileFault::create);
  // Whatever fails, it is filled or as empty as it was.
  const auto empty = [&] {
    std::filesystem::remove_all(folder / "empty");
    std::filesystem::create_directory(folder / "empty");
  };
  const auto fill = [&] {
    AtomicFolder out(folder / "empty");
    write_file(out.path() / "a", "1");
    write_file(out.path() / "b", "2");
    out.commit();
  };
  empty();
  fail_every_call(
      fill,
      [&](bool filled) {
        EXPECT_EQ(names(), filled ? 2 : 0);
        empty();
      },
      1);
  for (int nth = 1; dies_at(nth, fill); ++nth) {
    if (std::filesystem::exists(folder / "empty/a") || std::filesystem::exists(folder / "empty/b")) empty();
    fill();  // which removes what the killed one left
    EXPECT_EQ(names(), 2) << "killed at call " << nth;
    empty();
  }
}

TEST(RemoveFolder, AKilledOneLeavesAllOrNothing) {
  int cases = 0;
  for (bool killed = true; killed; ++cases) {
    const TempFolder folder;
    std::filesystem::create_directory(folder / "d");
    for (const char* name : {"d/a", "d/b"}) folder.write(name, "old");
    killed = dies_at(cases + 1, [&] { remove_folder(folder / "d"); });
    EXPECT_EQ(std::filesystem::exists(folder / "d/a"), std::filesystem::exists(folder / "d/b"));
    EXPECT_EQ(std::filesystem::exists(folder / "d"), std::filesystem::exists(folder / "d/a"));
    if (!killed) {
      EXPECT_EQ(folder.entries(), 0);
    }
    remove_folder(folder / "d");
    AtomicFolder next(folder / "d");  // which removes what the killed one left
    EXPECT_EQ(folder.entries(), 1);
  }
  EXPECT_EQ(cases, 3);
}

TEST(AtomicFolder, ReplacesInOneStep) {
  const TempFolder folder;
  for (const char* text : {"1", "2"}) {
    AtomicFolder out(folder / "latest", AtomicFolder::Existing::replace);
    write_file(out.path() / "a", text);
    out.commit();
    EXPECT_EQ(folder.read("latest/a"), text);
    EXPECT_EQ(folder.entries(), 1);
  }
}

TEST(AtomicFolder, EveryFailingCallLeavesTheOldFolder) {
  const TempFolder folder;
  const auto fill = [&](const char* text) {
    AtomicFolder out(folder / "d", AtomicFolder::Existing::replace);
    write_file(out.path() / "a", text);
    out.commit();
  };
  fill("old");
  fail_every_call([&] { fill("new"); },
                  [&](bool replaced) {
                    EXPECT_EQ(folder.read("d/a"), replaced ? "new" : "old");
                    EXPECT_EQ(folder.entries(), 1);
                    fill("old");
                  },
                  1);
}

}  // namespace
}  // namespace metal_candle::io
