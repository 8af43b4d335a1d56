// Runs a fuzz target once over the empty input and every file of the corpus directories given: what
// an ordinary build links instead of libFuzzer's main. Each input lies in a heap block of exactly
// its size, so that the address sanitizer sees a read past its end.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

void run_input(const std::string& input) {
  auto exact = std::make_unique<uint8_t[]>(input.size());
  std::copy(input.begin(), input.end(), exact.get());
  LLVMFuzzerTestOneInput(exact.get(), input.size());
}

// Returns the number of inputs run, or -1 when a file could not be read.
int run_directory(const std::filesystem::path& directory) {
  std::error_code error;
  std::vector<std::filesystem::path> files;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error))
    files.push_back(it->path());
  if (error) {
    std::fprintf(stderr, "%s: %s\n", directory.c_str(), error.message().c_str());
    return -1;
  }
  std::sort(files.begin(), files.end());
  for (const auto& file : files) {
    std::ifstream stream(file, std::ios::binary);
    if (!stream) {
      std::fprintf(stderr, "%s: cannot be read\n", file.c_str());
      return -1;
    }
    run_input(std::string(std::istreambuf_iterator<char>(stream), {}));
  }
  return static_cast<int>(files.size());
}

}  // namespace

int main(int argc, char** argv) {
  run_input({});
  for (int i = 1; i < argc; ++i) {
    const int inputs = run_directory(argv[i]);
    if (inputs < 0) return 1;
    if (inputs == 0) {
      std::fprintf(stderr, "%s: empty corpus: add at least one valid input\n", argv[i]);
      return 1;
    }
    std::printf("%s: %d inputs\n", argv[i], inputs);
  }
  return 0;
}
