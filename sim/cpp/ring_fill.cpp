// Sends labelled operands through residue_ring and writes down, as a waveform, where they are.
//
// Arguments: words slots passes elements products file. Word j of operand a in a pass is the label
// (product + 1) << 16 | (pass + 1) << 8 | (j + 1): the elements hand it on as it is. M and b are
// zero; timing does not depend on them. Standard output: one line a result, its product and the
// cycle of its first word. The waveform (VCD) has one time step a cycle.
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>

#include "Vtop.h"
#include "verilated.h"
#include "verilated_vcd_c.h"

namespace {

constexpr int kFetchLatency = 4;

struct Group {
  int product, pass;
  int64_t start;  // cycle of word 0
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  const int words = std::atoi(argv[1]), slots = std::atoi(argv[2]), passes = std::atoi(argv[3]);
  const int elements = std::atoi(argv[4]), products = std::atoi(argv[5]);

  Verilated::traceEverOn(true);
  Vtop top;
  VerilatedVcdC trace;
  top.trace(&trace, 99);
  trace.open(argv[6]);
  int64_t cycle = 0;
  auto clock = [&] {
    top.clk = 1;
    top.eval();
    top.clk = 0;
    top.eval();
    trace.dump(static_cast<uint64_t>(cycle++));
  };
  top.words_i = words;
  top.slots_i = slots;
  top.passes_i = passes;
  for (int i = 0; i < 4; i++) clock();
  top.rst_n = 1;

  std::deque<Group> groups;
  const int64_t limit = 20000 + int64_t{2} * products * passes * slots;
  int requested = 0, finished = 0;
  while (finished < products && cycle < limit) {
    if (top.m_fetch_valid)
      groups.push_back({top.m_fetch_tag, top.m_fetch_pass, cycle + kFetchLatency});
    top.s_a_i = 0;
    for (const Group& group : groups) {
      const int64_t j = cycle - group.start;
      if (j < 0 || j >= words) continue;
      top.s_a_i = (group.product + 1) << 16 | (group.pass + 1) << 8 | (j + 1);
    }
    if (!groups.empty() && cycle - groups.front().start == slots - 1) groups.pop_front();
    if (top.m_res_valid && top.m_res_first)
      std::printf("%d %" PRId64 "\n", top.m_res_tag, cycle);
    finished += top.m_res_valid && top.m_res_last;
    top.s_req_valid = requested < products;
    top.s_req_tag = requested;
    top.eval();
    requested += top.s_req_valid && top.s_req_ready;
    clock();
  }
  trace.close();
  return finished == products ? 0 : 1;
}
