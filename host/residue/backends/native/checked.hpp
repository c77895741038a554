// Lanes that verify the bounds of montgomery.hpp: a stand-in for every vector unit.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace residue {

// Fused: products are added in parts of 52 bits, as AVX512-IFMA adds them. Columns of lanes that
// are not Exact may overflow.
template <std::size_t Lanes, unsigned MinRadix, unsigned MaxRadix, unsigned OperandBits,
          std::size_t Terms, bool Fused, bool Exact = true>
struct Checked {
  static constexpr std::size_t kLanes = Lanes;
  static constexpr unsigned kMinRadix = MinRadix, kMaxRadix = MaxRadix, kOperandBits = OperandBits;
  static constexpr std::size_t kTerms = Terms;
  static constexpr bool kFused = Fused;
  using Wide = Checked<Lanes, MinRadix, MaxRadix, OperandBits, Terms, Fused, false>;
  struct Word {
    std::uint64_t lane[Lanes];
  };

  static Word load(const std::uint64_t* p) {
    return each([p](std::size_t i) { return p[i]; });
  }
  static void store(std::uint64_t* p, const Word& x) {
    for (std::size_t i = 0; i < Lanes; ++i) p[i] = x.lane[i];
  }
  static Word all(std::uint64_t x) {
    return each([x](std::size_t) { return x; });
  }
  static Word add(const Word& a, const Word& b) {
    return each([&](std::size_t i) { return sum(a.lane[i], b.lane[i]); });
  }
  static Word sub(const Word& a, const Word& b) {  // may borrow: that is what it is used for
    return each([&](std::size_t i) { return a.lane[i] - b.lane[i]; });
  }
  static Word both(const Word& a, const Word& b) {
    return each([&](std::size_t i) { return a.lane[i] & b.lane[i]; });
  }
  static Word either(const Word& a, const Word& b) {
    return each([&](std::size_t i) { return a.lane[i] | b.lane[i]; });
  }
  static Word shift_right(const Word& a, unsigned n) {
    return each([&](std::size_t i) { return a.lane[i] >> n; });
  }
  static Word low(const Word& a, const Word& b) {
    return each([&](std::size_t i) { return (a.lane[i] & kSeen) * (b.lane[i] & kSeen) & kLow; });
  }
  static void mac(Word& lo, Word& hi, const Word& a, const Word& b) {
    for (std::size_t i = 0; i < Lanes; ++i) {
      check((a.lane[i] | b.lane[i]) >> OperandBits == 0, "an operand is too long");
      const auto product = static_cast<unsigned __int128>(a.lane[i]) * b.lane[i];
      lo.lane[i] = sum(lo.lane[i], static_cast<std::uint64_t>(product) & kLow);
      if (kFused) hi.lane[i] = sum(hi.lane[i], static_cast<std::uint64_t>(product >> MaxRadix));
    }
  }
  static void transpose(Word (&x)[Lanes]) {
    for (std::size_t i = 0; i < Lanes; ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        const std::uint64_t kept = x[i].lane[j];
        x[i].lane[j] = x[j].lane[i];
        x[j].lane[i] = kept;
      }
    }
  }

 private:
  static constexpr std::uint64_t kFull = ~std::uint64_t{0};
  static constexpr std::uint64_t kLow = kFused ? kFull >> (64 - MaxRadix) : kFull;
  static constexpr std::uint64_t kSeen = kFused ? kLow : kFull >> 32;

  static void check(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "a bound of montgomery.hpp is broken: %s\n", what);
    std::abort();
  }
  static std::uint64_t sum(std::uint64_t a, std::uint64_t b) {
    std::uint64_t result;
    check(!__builtin_add_overflow(a, b, &result) || !Exact, "a column overflows");
    return result;
  }
  template <class F>
  static Word each(F f) {
    Word result;
    for (std::size_t i = 0; i < Lanes; ++i) result.lane[i] = f(i);
    return result;
  }
};

}  // namespace residue
