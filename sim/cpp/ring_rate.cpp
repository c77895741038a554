// Runs products through residue_ring as fast as it takes them.
//
// Standard input: words slots passes elements products, M (words), then a and b (words each) of each
// product; hexadecimal. Standard output: one line a product with the words of its result, then one
// line with the cycle of each fetch.
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <vector>

#include "Vtop.h"
#include "verilated.h"

namespace {

constexpr int kFetchLatency = 4;

using Words = std::vector<uint64_t>;

struct Group {
  int product, pass;
  int64_t start;  // cycle of word 0
};

uint64_t read() {
  uint64_t value = 0;
  if (std::scanf("%" SCNx64, &value) != 1) std::exit(2);
  return value;
}

Words read(int count) {
  Words words(count);
  for (uint64_t& word : words) word = read();
  return words;
}

}  // namespace

int main(int argc, char** argv) {
  Verilated::commandArgs(argc, argv);
  const int words = read(), slots = read(), passes = read(), elements = read();
  const int products = read();
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
    top.s_a_i = top.s_m_i = top.s_b_i = 0;
    for (const Group& group : groups) {
      const int64_t j = cycle - group.start;
      if (j < 0) break;
      if (j < words) {
        top.s_a_i = a[group.product][j];
        top.s_m_i = m[j];
      }
      if (j < elements) top.s_b_i = b[group.product][group.pass * elements + j];
    }
    if (!groups.empty() && cycle - groups.front().start == slots - 1) groups.pop_front();
    if (top.m_res_valid) {
      std::printf("%" PRIx64 "%c", static_cast<uint64_t>(top.m_res_data),
                  top.m_res_last ? '\n' : ' ');
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
