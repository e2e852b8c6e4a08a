#include "tests/scale/server_process.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <thread>

namespace shardwright {
namespace {

constexpr std::chrono::seconds kStartTimeout(60);

[[noreturn]] void Die(const std::string& message) {
  std::fprintf(stderr, "%s\n", message.c_str());
  std::abort();
}

// Among a test's runfiles, or below the tree's root as the build left it.
std::string PathOf(const std::string& program) {
  const char* runfiles = std::getenv("TEST_SRCDIR");
  const char* workspace = std::getenv("TEST_WORKSPACE");
  return runfiles == nullptr || workspace == nullptr
             ? "bazel-bin/" + program
             : std::string(runfiles) + "/" + workspace + "/" + program;
}

std::string MakeDirectory() {
  const char* parent = std::getenv("TEST_TMPDIR");
  std::string path = std::string(parent ? parent : "/tmp") + "/swXXXXXX";
  if (mkdtemp(path.data()) == nullptr) Die("no directory " + path);
  return path;
}

}  // namespace

ServerProcess::ServerProcess(const std::string& program,
                             std::vector<std::string> arguments)
    : directory_(MakeDirectory()) {
  const std::string path = PathOf(program);
  const std::string port_file = directory_ + "/port";
  arguments.insert(arguments.begin(), path);
  arguments.insert(arguments.end(),
                   {"--listen", "127.0.0.1:0", "--port-file", port_file});
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const int log = open((directory_ + "/log").c_str(), O_CREAT | O_WRONLY, 0600);
  pid_ = fork();
  if (pid_ == 0) {
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    execv(path.c_str(), argv.data());
    _exit(127);
  }
  close(log);
  const auto deadline = std::chrono::steady_clock::now() + kStartTimeout;
  while (!(std::ifstream(port_file) >> address_)) {
    if (!Running() || std::chrono::steady_clock::now() > deadline) {
      Die(path + " does not listen; its log is " + directory_ + "/log");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

ServerProcess::~ServerProcess() {
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  std::remove((directory_ + "/port").c_str());
  std::remove((directory_ + "/log").c_str());
  rmdir(directory_.c_str());
}

bool ServerProcess::Running() const {
  siginfo_t info = {};
  return waitid(P_PID, pid_, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == 0;
}

ProcessUse ServerProcess::Use() const {
  ProcessUse use;
  const std::string proc = "/proc/" + std::to_string(pid_);
  std::ifstream status(proc + "/status");
  for (std::string key; status >> key;) {
    if (key == "VmRSS:") {
      status >> use.resident_bytes;
      use.resident_bytes *= 1024;
    } else if (key == "Threads:") {
      status >> use.threads;
    }
  }
  DIR* files = opendir((proc + "/fd").c_str());
  if (files == nullptr) return use;
  while (readdir(files) != nullptr) ++use.open_files;
  closedir(files);
  use.open_files -= 2;  // "." and "..".
  return use;
}

}  // namespace shardwright
