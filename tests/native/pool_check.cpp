// Works a pool from several threads at once, for the thread sanitizer.

#include <cstdio>
#include <numeric>
#include <thread>
#include <vector>

#include "pool.hpp"

using residue::Pool;

int main() {
  std::vector<std::thread> callers;
  std::vector<int> wrong(4);
  {
    Pool pool(3);
    for (std::size_t caller = 0; caller < wrong.size(); ++caller) {
      callers.emplace_back([&, caller] {
        for (std::size_t round = 0; round < 2000; ++round) {
          std::vector<unsigned> done(1 + round % 50);
          pool.run(done.size(), [&](std::size_t piece) { done[piece] += 1; });  // plain writes
          const unsigned sum = std::accumulate(done.begin(), done.end(), 0u);
          wrong[caller] += sum != done.size();
          if (round % 500 == 499) std::this_thread::sleep_for(std::chrono::milliseconds(2));
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
  }
  std::printf("%d\n", std::accumulate(wrong.begin(), wrong.end(), 0));
}
