// Runs a kernel on operands that valgrind is told are undefined: it reports every branch and every
// address that depends on them. Usage: secret_check KERNEL BITS [squared] for moduli of so many bits, or
// squares of such; secret_check leak to see that a dependence is reported.

#include <valgrind/memcheck.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "kernel.hpp"

using namespace residue;

namespace {

u64 next() {
  static u64 state = 88172645463325252u;
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return state;
}

void hide(std::vector<u64>& words) {
  VALGRIND_MAKE_MEM_UNDEFINED(words.data(), words.size() * sizeof(u64));
}

u64 sum_of(std::vector<u64>& words) {
  VALGRIND_MAKE_MEM_DEFINED(words.data(), words.size() * sizeof(u64));
  u64 sum = 0;
  for (u64 word : words) sum += word;
  return sum;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string(argv[1]) == "leak") {
    std::vector<u64> secret{next()};
    hide(secret);
    std::puts(secret[0] & 1 ? "odd" : "even");
    return 0;
  }
  if (argc < 3) return 2;
  const Kernel* kernel = nullptr;
  for (const Kernel* k : {&kPortable, &kAvx2}) {
    if (std::string(argv[1]) == k->name) kernel = k;
  }
  if (kernel == nullptr || !kernel->available()) return 2;

  // Any odd n of the layout will do: what is right is for other tests.
  const std::size_t bits = std::strtoul(argv[2], nullptr, 10), rows = 2 * kernel->lanes + 1;
  const bool squared = argc == 4;
  const Layout layout = kernel->layout(bits, squared);
  const u64 mask = (u64{1} << layout.radix) - 1;
  const auto digits = [&](std::size_t count) {
    std::vector<u64> words(count * layout.row);
    for (std::size_t i = 0; i < count; ++i) {
      for (std::size_t k = 0; k + 1 < layout.digits; ++k) words[i * layout.row + k] = next() & mask;
    }
    return words;
  };
  std::vector<u64> n = digits(rows), one = digits(rows), inverse(rows), a = digits(rows);
  std::vector<u64> b = digits(rows), exponents(rows * 2), out(rows * layout.row);
  for (std::size_t i = 0; i < rows; ++i) {
    n[i * layout.row] |= 1;
    u64 x = 1;
    for (int step = 0; step < 6; ++step) x *= 2 - n[i * layout.row] * x;
    inverse[i] = (0 - x) & mask;
  }
  for (u64& word : exponents) word = next();
  for (auto* secret : {&n, &one, &inverse, &a, &b, &exponents}) hide(*secret);

  const Moduli moduli{layout.digits, layout.row,     layout.radix, squared, rows,
                      n.data(),      inverse.data(), one.data()};
  u64 sum = 0;
  kernel->enter(moduli, {a.data(), rows}, {b.data(), rows}, out.data(), rows);
  sum += sum_of(out);
  kernel->multiply(moduli, {a.data(), rows}, {b.data(), rows}, out.data(), rows);
  sum += sum_of(out);
  kernel->multiply(moduli, {a.data(), rows}, {a.data(), rows}, out.data(), rows);
  sum += sum_of(out);
  kernel->square(moduli, {a.data(), rows}, 3, out.data(), rows);
  sum += sum_of(out);
  kernel->leave(moduli, {a.data(), rows}, out.data(), rows);
  sum += sum_of(out);
  kernel->power(moduli, {a.data(), rows}, {exponents.data(), rows, 2, 100}, 4, out.data(), rows);
  sum += sum_of(out);
  std::vector<u64> table(out.size() << 2);
  kernel->powers(moduli, {a.data(), rows}, 2, table.data(), rows);
  sum += sum_of(table);
  if (squared) {
    std::vector<std::int64_t> numbers(rows);
    for (std::int64_t& number : numbers) number = static_cast<std::int64_t>(next());
    VALGRIND_MAKE_MEM_UNDEFINED(numbers.data(), numbers.size() * sizeof(std::int64_t));
    kernel->binomials(moduli, numbers.data(), {b.data(), rows}, out.data(), rows);
    sum += sum_of(out);
    kernel->weighted_sum(moduli, a.data(), 0, {b.data(), 2}, {b.data(), 1}, out.data(), rows);
    sum += sum_of(out);
    kernel->pairs(moduli, {a.data(), rows}, out.data(), rows);
    sum += sum_of(out);
  }
  std::printf("%llu\n", static_cast<unsigned long long>(sum));
  return 0;
}
