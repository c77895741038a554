// Runs products through residue_ring as fast as it takes them.
//
// Standard input: words slots passes elements products, M (words), then a and b (words each) of each
// product; hexadecimal, words of up to 128 bits. Standard output: one line a product with the words
// of its result, then one line with the cycle of each fetch.
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <type_traits>
#include <vector>

#include "Vtop.h"
#include "verilated.h"

namespace {

constexpr int kFetchLatency = 4;

using Word = unsigned __int128;
using Words = std::vector<Word>;

struct Group {
  int product, pass;
  int64_t start;  // cycle of word 0
};

Word read() {
  char text[33];
  if (std::scanf("%32s", text) != 1) std::exit(2);
  Word value = 0;
  for (const char* c = text; *c; c++) value = value << 4 | (*c <= '9' ? *c - '0' : *c - 'a' + 10);
  return value;
}

// Ports of up to 64 bits are integers, wider ones arrays of 32-bit words.
template <typename Port>
void drive(Port& port, Word value) {
  if constexpr (std::is_integral_v<Port>) {
    port = static_cast<Port>(value);
  } else {
    for (size_t i = 0; i < sizeof(port) / 4; i++) port[i] = static_cast<uint32_t>(value >> 32 * i);
  }
}

template <typename Port>
Word value_of(const Port& port) {
  if constexpr (std::is_integral_v<Port>) {
    return port;
  } else {
    Word value = 0;
    for (size_t i = sizeof(port) / 4; i-- > 0;) value = value << 32 | port[i];
    return value;
  }
}

Words read(int count) {
  Words words(count);
  for (Word& word : words) word = read();
  return words;
}

}  // namespace

int main(int argc, char** argv) {
  Verilated::commandArgs(argc, argv);
  const auto read_int = [] { return static_cast<int>(read()); };
  const int words = read_int(), slots = read_int(), passes = read_int(), elements = read_int();
  const int products = read_int();
  const Words m = read(words);
  std::vector<Words> a(products), b(products);
  for (int i = 0; i < products; i++) {
    a[i] = read(words);
    b[i] = read(words);
    b[i].resize(passes * elements);
  }

  Vtop top;
  int64_t cycle = 0;
  auto clock = [&] {
    top.clk = 1;
    top.eval();
    top.clk = 0;
    top.eval();
    cycle++;
  };
  top.clk = 0;
  top.rst_n = 0;
  top.words_i = words;
  top.slots_i = slots;
  top.passes_i = passes;
  top.s_req_valid = 0;
  for (int i = 0; i < 4; i++) clock();
  top.rst_n = 1;

  std::deque<Group> groups;
  std::vector<int64_t> fetches;
  std::vector<int> of_tag(256);
  const int64_t limit = 20000 + int64_t{2} * products * passes * slots;
  for (int requested = 0, finished = 0; finished < products && cycle < limit;) {
    if (top.m_fetch_valid) {
      groups.push_back({of_tag[top.m_fetch_tag], top.m_fetch_pass, cycle + kFetchLatency});
      fetches.push_back(cycle);
    }
    Word word_a = 0, word_m = 0, word_b = 0;
    for (const Group& group : groups) {
      const int64_t j = cycle - group.start;
      if (j < 0) break;
      if (j < words) {
        word_a = a[group.product][j];
        word_m = m[j];
      }
      if (j < elements) word_b = b[group.product][group.pass * elements + j];
    }
    drive(top.s_a_i, word_a);
    drive(top.s_m_i, word_m);
    drive(top.s_b_i, word_b);
    if (!groups.empty() && cycle - groups.front().start == slots - 1) groups.pop_front();
    if (top.m_res_valid) {
      const Word word = value_of(top.m_res_data);
      std::printf("%" PRIx64 "%016" PRIx64 "%c", static_cast<uint64_t>(word >> 64),
                  static_cast<uint64_t>(word), top.m_res_last ? '\n' : ' ');
      finished += top.m_res_last;
    }
    top.s_req_valid = requested < products;
    top.s_req_tag = requested & 255;
    of_tag[requested & 255] = requested;
    requested += top.s_req_valid && top.s_req_ready;
    clock();
  }
  for (int64_t fetch : fetches) std::printf("%" PRIx64 " ", static_cast<uint64_t>(fetch));
  std::printf("\n");
  return 0;
}
